//! The order in which services start: whoever is waited for comes first.

use super::ComposeError;
use super::SERVICES_MAX;
use super::document::Value;
use super::node::{Node, Reading, cut};
use super::plan::Condition;

const KEYS: &[&str] = &["condition", "required", "restart"];

/// Entries of one `depends_on`.
const DEPENDS_MAX: usize = 2 * SERVICES_MAX;

/// One entry of `depends_on`.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    /// Where it stands.
    pub(super) node: Node<'a>,
    /// For whom.
    pub(super) name: String,
    /// How far.
    pub(super) condition: Condition,
    /// Whether the other must exist.
    pub(super) is_required: bool,
}

/// Reads `depends_on`, a list of names or a map.
pub(super) fn depends_on<'a>(node: &Node<'a>, reading: &mut Reading<'_>) -> Result<Vec<Wait<'a>>, ComposeError> {
    node.list_or_map()?;
    if let Value::List(_) = node.value {
        let wait = |node: Node<'a>| {
            let name = node.text(reading)?;
            Ok(Wait { node, name, condition: Condition::Started, is_required: true })
        };
        return node.list(DEPENDS_MAX)?.into_iter().map(wait).collect();
    }
    let mut waits = Vec::new();
    for (name, node) in node.named(DEPENDS_MAX)? {
        let mut wait =
            Wait { node: node.clone(), name: name.to_owned(), condition: Condition::Started, is_required: true };
        if *node.value != Value::Nothing {
            let fields = node.fields(KEYS)?;
            if let Some(condition) = fields.get("condition") {
                wait.condition = match condition.text(reading)?.as_str() {
                    "service_started" => Condition::Started,
                    "service_healthy" => Condition::Healthy,
                    "service_completed_successfully" => Condition::Completed,
                    other => {
                        const WANTED: &str = "`service_started`, `service_healthy` or `service_completed_successfully`";
                        return Err(condition.bad(other, WANTED));
                    }
                };
            }
            if let Some(required) = fields.get("required") {
                wait.is_required = required.flag(reading)?;
            }
            fields.ignore(&[("restart", "each service is restarted for itself")], reading);
        }
        waits.push(wait);
    }
    Ok(waits)
}

/// The order in which services start: `needs[i]` are the services that `i` waits for. Services that could start in any
/// order keep that of the file. Errors: the services of a circle, the first again at the end.
pub(super) fn start_order(names: &[&str], needs: &[Vec<usize>]) -> Result<Vec<usize>, ComposeError> {
    let mut order = Vec::with_capacity(names.len());
    while order.len() < names.len() {
        let is_ready = |at: &usize| !order.contains(at) && needs[*at].iter().all(|need| order.contains(need));
        match (0..names.len()).find(is_ready) {
            Some(ready) => order.push(ready),
            None => return Err(ComposeError::Circle { names: circle(names, needs, &order) }),
        }
    }
    Ok(order)
}

/// A circle among the services that are not in `done`; there is one, as each of them waits for another of them.
fn circle(names: &[&str], needs: &[Vec<usize>], done: &[usize]) -> Vec<String> {
    let mut way: Vec<usize> = (0..names.len()).find(|at| !done.contains(at)).into_iter().collect();
    while let Some(next) = way.last().and_then(|at| needs[*at].iter().copied().find(|need| !done.contains(need))) {
        if let Some(begin) = way.iter().position(|at| *at == next) {
            way.push(next);
            return way[begin..].iter().map(|at| cut(names[*at])).collect();
        }
        way.push(next);
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_comes_first_and_the_rest_keeps_its_order() {
        let order = start_order(&["a", "b", "c", "d"], &[vec![2], vec![], vec![3], vec![]]);
        assert_eq!(order, Ok(vec![1, 3, 2, 0]));
    }

    #[test]
    fn a_circle_is_named_without_those_that_only_lead_into_it() {
        let names = ["a", "b", "c", "d"];
        let error = start_order(&names, &[vec![1], vec![2], vec![3], vec![1]]).expect_err("a circle");
        assert_eq!(error.to_string(), "services wait for each other in a circle: b -> c -> d -> b");
        let error = start_order(&["a"], &[vec![0]]).expect_err("a circle");
        assert_eq!(error.to_string(), "services wait for each other in a circle: a -> a");
    }
}

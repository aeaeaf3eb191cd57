//! `x-cuda`: the kernel bundle that a source may run in place of its services.
//!
//! Tools that run containers pass over a top-level key that begins with `x-`, so one file serves them and this rig.
//! Invariant: what is read here is a link and a name by their form; what stands behind them is judged where it is
//! fetched.

use bundle::limits::{LINK_CHARS_MAX, NAME_CHARS_MAX};

use super::document::{self, Value};
use super::exceptions::Exceptions;
use super::node::{Node, Reading};
use super::{ComposeError, KEYS, Offer, check_length};

const KEY: &str = "x-cuda";

const CUDA_KEYS: &[&str] = &["bundle", "function"];

/// A kernel bundle, as a compose file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// A link to the archive.
    pub bundle: String,
    /// The only function that is served; `None`: all that the bundle has.
    pub function: Option<String>,
}

// === impl Cuda ===

impl Cuda {
    /// Reads `x-cuda` of a compose file and nothing else of it, so that a rig which runs the bundle need not be able to
    /// run the services. Errors: the file is not YAML, has an unknown key beside it, or the field is not what it should be.
    pub fn find(text: &str, offer: &Offer) -> Result<Option<Cuda>, ComposeError> {
        check_length(text)?;
        let tree = document::read(text)?;
        let root = Node { path: String::new(), value: &tree };
        root.fields(KEYS)?;
        Cuda::of(&root, &Reading::new(offer, &Exceptions::default()))
    }

    /// Reads the field of a file's root.
    pub(super) fn of(root: &Node<'_>, reading: &Reading<'_>) -> Result<Option<Cuda>, ComposeError> {
        let Value::Map(entries) = root.value else { return Err(root.kind("a map")) };
        // A field that is there and empty is a mistake, not a field that is left out.
        let Some((_, value)) = entries.iter().find(|(key, _)| key == KEY) else { return Ok(None) };
        let node = Node { path: KEY.to_owned(), value };
        let fields = node.fields(CUDA_KEYS)?;
        // There are no extensions of an extension.
        let beyond = node.named(CUDA_KEYS.len());
        if let Some((_, beyond)) = beyond?.into_iter().find(|(key, _)| !CUDA_KEYS.contains(key)) {
            return Err(ComposeError::Unknown { path: beyond.path, nearest: None });
        }
        let bundle = fields.need("bundle")?;
        let link = bundle.text(reading)?;
        if link.is_empty() || link.chars().count() > LINK_CHARS_MAX || !link.chars().all(is_of_a_link) {
            return Err(bundle.bad(&link, "a link to a kernel bundle, without spaces and of at most 2048 characters"));
        }
        let name = match fields.get("function") {
            Some(function) => {
                let name = function.text(reading)?;
                if !is_name(&name) {
                    return Err(function.bad(&name, "the name of a function: a-z, then a-z, 0-9 and _, at most 32"));
                }
                Some(name)
            }
            None => None,
        };
        Ok(Some(Cuda { bundle: link, function: name }))
    }
}

fn is_of_a_link(each: char) -> bool {
    !each.is_control() && !each.is_whitespace()
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_CHARS_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || each == '_')
}

#[cfg(test)]
mod tests {
    use super::super::Plan;
    use super::*;

    fn offer() -> Offer {
        Offer {
            port: super::super::SERVICE_PORT,
            callback_url: "http://host.docker.internal:20000/t/task".into(),
            source_address: "0xS".into(),
            provider_address: "0xP".into(),
        }
    }

    fn plan(text: &str) -> Result<Plan, ComposeError> {
        Plan::parse(text, &offer(), &Exceptions::default())
    }

    #[test]
    fn a_bundle_is_read_with_or_without_services_and_with_or_without_a_function() {
        let check = |text: &str, bundle: &str, function: Option<&str>, services: usize| {
            let expected = Cuda { bundle: bundle.to_owned(), function: function.map(str::to_owned) };
            let plan = plan(text).expect(text);
            assert_eq!(plan.cuda, Some(expected.clone()), "{text}");
            assert_eq!(plan.services.len(), services, "{text}");
            assert_eq!(Cuda::find(text, &offer()).expect(text), Some(expected), "{text}");
        };
        check("{services: {}, x-cuda: {bundle: 'ipfs://b'}}", "ipfs://b", None, 0);
        check("x-cuda: {bundle: 'ipfs://b'}", "ipfs://b", None, 0);
        check("{services: , x-cuda: {bundle: 'ipfs://b'}}", "ipfs://b", None, 0);
        check("{services: {}, x-cuda: {bundle: b, function: f}}", "b", Some("f"), 0);
        check("{services: {}, x-cuda: {bundle: b, function: f_32x}}", "b", Some("f_32x"), 0);
        check("{services: {}, x-cuda: {bundle: b, function: }}", "b", None, 0);
        check("{services: {a: {image: i}}, x-cuda: {bundle: b, function: f}}", "b", Some("f"), 1);
        check("{services: {}, x-cuda: {bundle: 'h/${SOURCE_ADDRESS}'}}", "h/0xS", None, 0);
        let long = "l".repeat(LINK_CHARS_MAX);
        check(&format!("{{services: {{}}, x-cuda: {{bundle: {long}}}}}"), &long, None, 0);
    }

    #[test]
    fn a_file_without_the_field_names_no_bundle() {
        for text in ["services: {a: {image: i}}", "{services: {a: {image: i}}, x-other: {bundle: b}}"] {
            assert_eq!(Cuda::find(text, &offer()).expect(text), None, "{text}");
            assert_eq!(plan(text).expect(text).cuda, None, "{text}");
        }
    }

    #[test]
    fn a_bad_field_is_refused_by_its_path() {
        let check = |field: &str, expected: &str| {
            let text = format!("{{services: {{}}, x-cuda: {field}}}");
            let errors = [plan(&text).map(|_| ()), Cuda::find(&text, &offer()).map(|_| ())];
            for error in errors {
                let error = error.expect_err(&text).to_string();
                assert!(error.contains(expected), "{text}: {error}");
            }
        };
        check("", "`x-cuda` is nothing, it should be a map");
        check("b", "`x-cuda` is a text, it should be a map");
        check("[b]", "`x-cuda` is a list");
        check("{}", "`x-cuda.bundle` is missing");
        check("{bundle: }", "`x-cuda.bundle` is missing");
        check("{function: f}", "`x-cuda.bundle` is missing");
        check(
            "{bundle: b, fuction: f}",
            "`x-cuda.fuction` is refused: this rig does not know it, did you mean `function`?",
        );
        check("{bundle: b, gpu: 1}", "`x-cuda.gpu` is refused");
        check("{bundle: b, x-more: 1}", "`x-cuda.x-more` is refused");
        check("{bundle: b, function: f, x-more: 1}", "`x-cuda` has 3 entries, at most 2 are run");
        check("{bundle: [b]}", "`x-cuda.bundle` is a list");
        check("{bundle: ''}", "`x-cuda.bundle` is ``, it should be a link");
        check("{bundle: 'a b'}", "`x-cuda.bundle` is `a b`, it should be a link");
        check("{bundle: \"a\\nb\"}", "it should be a link");
        check("{bundle: '${PROVIDER_PRIVATE_KEY}'}", "which this rig does not offer");
        check(&format!("{{bundle: {}}}", "l".repeat(LINK_CHARS_MAX + 1)), "it should be a link");
        for name in ["F", "'1'", "_f", "f-g", "f.g", "'f g'", "''", "é", &"f".repeat(33)] {
            check(&format!("{{bundle: b, function: {name}}}"), "it should be the name of a function");
        }
    }

    #[test]
    fn a_bundle_is_found_beside_services_that_this_rig_would_refuse() {
        let text = "{services: {a: {image: i, runtime: nvidia, privileged: true}}, x-cuda: {bundle: b}}";
        assert!(plan(text).is_err());
        assert!(Cuda::find(text, &offer()).expect("the field is good").is_some());
        assert!(Cuda::find("{servces: {}, x-cuda: {bundle: b}}", &offer()).is_err());
    }

    #[test]
    fn without_services_there_is_no_room_for_what_only_services_use() {
        assert_eq!(plan("services: {}"), Err(ComposeError::Services { count: 0 }));
        let error = plan("{services: {a: {image: i, privileged: true}}, x-cuda: {bundle: b}}").expect_err("refused");
        assert!(error.to_string().contains("privileged"), "{error}");
        let left_out = plan("{services: {a: {image: i, profiles: [p]}}, x-cuda: {bundle: b}}").expect("a bundle");
        assert_eq!((left_out.services.len(), left_out.main_port), (0, super::super::SERVICE_PORT));
    }
}

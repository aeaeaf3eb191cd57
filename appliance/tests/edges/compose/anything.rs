//! Files that nobody wrote: pieces of compose files in any order, and any text at all.

use appliance::compose::{Exception, Exceptions, Plan, SERVICES_MAX, TEXT_BYTES_MAX};
use proptest::prelude::*;

use super::offer;

/// Keys that a service may have, right and wrong.
const KEYS: [&str; 22] = [
    "image",
    "command",
    "entrypoint",
    "environment",
    "volumes",
    "tmpfs",
    "ports",
    "depends_on",
    "links",
    "healthcheck",
    "deploy",
    "gpus",
    "ulimits",
    "shm_size",
    "restart",
    "user",
    "hostname",
    "networks",
    "cap_add",
    "privileged",
    "extra_hosts",
    "stop_grace_period",
];

/// Values that mean something to one or another of them.
const VALUES: [&str; 30] = [
    "i",
    "",
    "true",
    "16G",
    "1m30s",
    "[a, b]",
    "[a]",
    "{a: }",
    "{b: {condition: service_healthy}}",
    "['${PORT}:5555']",
    "['12436:11434']",
    "[v:/x]",
    "['/data:/x:ro']",
    "['/x:size=1m,mode=1777']",
    "{K: '${CALLBACK_URL}'}",
    "['K=${NO:-$SECRET}']",
    "'${PROVIDER_PRIVATE_KEY}'",
    "'${SECRET:+x}$$SECRET'",
    "{nofile: 10}",
    "{test: [CMD, x]}",
    "{resources: {reservations: {devices: [{capabilities: [gpu], count: 2}]}}}",
    "all",
    "-1",
    "0",
    "on-failure:3",
    "[b]",
    "[{type: volume, source: v, target: /y}]",
    "&x [b]",
    "*x",
    "!!binary aGk=",
];

fn service() -> impl Strategy<Value = String> {
    let entry = (prop::sample::select(&KEYS[..]), prop::sample::select(&VALUES[..]));
    prop::collection::btree_map(prop::sample::select(&KEYS[..]), entry.prop_map(|(_, value)| value), 0..5).prop_map(
        |map| {
            let lines: String = map.into_iter().map(|(key, value)| format!("    {key}: {value}\n")).collect();
            format!("{lines}    {{}}\n").replace("    {}\n", "")
        },
    )
}

fn file() -> impl Strategy<Value = String> {
    (service(), service()).prop_map(|(a, b)| {
        let image = |lines: &str| if lines.contains("image:") { "" } else { "    image: i\n" };
        format!("services:\n  a:\n{}{a}  b:\n{}{b}volumes:\n  v:\n", image(&a), image(&b))
    })
}

/// What holds of each plan, whatever it came from.
fn check(plan: &Plan) {
    let least = usize::from(plan.cuda.is_none());
    assert!((least..=SERVICES_MAX).contains(&plan.services.len()) && plan.main_port > 0);
    assert!(plan.main < plan.services.len().max(1));
    for (at, service) in plan.services.iter().enumerate() {
        assert!(service.depends_on.iter().all(|(other, _)| *other < at), "who is waited for comes first");
        assert!(service.mounts.iter().all(|mount| mount.volume < plan.volumes.len() && mount.target.starts_with('/')));
        let texts = service.environment.iter().flat_map(|(name, value)| [name, value]);
        let words = service.command.iter().chain(&service.entrypoint).flatten();
        for text in texts.chain(words).chain([&service.image]) {
            assert!(text.len() <= TEXT_BYTES_MAX && !text.contains('\0'));
        }
    }
    assert!(plan.published.iter().all(|port| port.service < plan.services.len() && port.host_port != 20_000));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn pieces_of_compose_files_in_any_order_give_a_plan_or_a_reason(text in file(), allowed in any::<bool>()) {
        let exceptions: Exceptions = Exception::ALL.into_iter().filter(|_| allowed).collect();
        match Plan::parse(&text, &offer(), &exceptions) {
            Ok(plan) => check(&plan),
            Err(error) => {
                let said = error.to_string();
                prop_assert!(said.chars().count() < 600 && !said.chars().any(char::is_control), "{said}");
            }
        }
    }

    #[test]
    fn any_text_gives_a_plan_or_a_reason(text in "(?s).{0,200}") {
        if let Ok(plan) = Plan::parse(&text, &offer(), &Exceptions::default()) {
            check(&plan);
        }
    }

    #[test]
    fn whatever_the_expression_no_name_that_is_not_offered_has_a_value(
        text in r"(\$|\$\$|\$\{|\}|:-|-|:\?|\?|:\+|\+|PORT|NO|SECRET_[A-Z]|x| ){0,12}",
    ) {
        // Under these names stands something in every process; were the environment asked, it would show.
        let text = text.replace("NO", "HOME").replace("SECRET_", "PATH");
        let file = format!("services: {{a: {{image: i, environment: {{K: '{text}'}}}}}}");
        if let Ok(plan) = Plan::parse(&file, &offer(), &Exceptions::default()) {
            let value = &plan.services[0].environment[0].1;
            let letters: String = value.replace("5555", "").replace("PORT", "").replace("HOME", "");
            let known = |c: char| "x -+:?}{$PATHSECRET_ABCDEFGHIJKLMNOPQRSTUVWXYZ".contains(c);
            prop_assert!(letters.chars().all(known), "{text} gave {value}");
            prop_assert!(!value.contains('/'), "{text} gave {value}");
        }
    }
}

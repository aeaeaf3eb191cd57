//! Any bytes as a compose file: a plan that keeps its promises, or a reason that can be printed.

use appliance::compose::{Exception, Exceptions, Offer, Plan, SERVICES_MAX, TEXT_BYTES_MAX};

/// A port of the host that no file of the corpus names.
const PORT: u16 = 5555;

/// Reads `data` with no exception, and with all of them.
pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let offer = Offer {
        port: PORT,
        callback_url: "http://host.docker.internal:20000/t/task".into(),
        source_address: "0xS".into(),
        provider_address: "0xP".into(),
    };
    let strict = Plan::parse(text, &offer, &Exceptions::default());
    let lenient = Plan::parse(text, &offer, &Exception::ALL.into_iter().collect());
    if let Ok(plan) = &strict {
        assert!(plan.exceptions.is_empty());
        assert_eq!(lenient.as_ref(), Ok(plan), "what needs no exception is not changed by one");
    }
    for outcome in [strict, lenient] {
        match outcome {
            Ok(plan) => check(&plan),
            Err(error) => {
                let said = error.to_string();
                assert!(said.len() < 4096 && !said.chars().any(char::is_control), "{said:?}");
            }
        }
    }
}

fn check(plan: &Plan) {
    let least = usize::from(plan.cuda.is_none());
    assert!((least..=SERVICES_MAX).contains(&plan.services.len()) && plan.main_port > 0);
    assert!(plan.main < plan.services.len().max(1));
    if let Some(cuda) = &plan.cuda {
        assert!((1..=2048).contains(&cuda.bundle.chars().count()) && !cuda.bundle.chars().any(char::is_whitespace));
        assert!(cuda.function.as_ref().is_none_or(|name| (1..=32).contains(&name.len())));
    }
    let mut names = std::collections::HashSet::new();
    for (at, service) in plan.services.iter().enumerate() {
        assert!(service.depends_on.iter().all(|(other, _)| *other < at), "who is waited for comes first");
        for name in [&service.name].into_iter().chain(&service.aliases) {
            let lower = format!(".{}", name.to_ascii_lowercase());
            assert!(!lower.ends_with(".docker.internal") && !lower.ends_with(".localhost") && !lower.ends_with('.'));
            assert!(names.insert(lower), "{name} means one service");
        }
        let mut targets = std::collections::HashSet::new();
        for target in service.mounts.iter().map(|m| &m.target).chain(service.tmpfs.iter().map(|t| &t.target)) {
            assert!(targets.insert(target), "{target} has one mount");
            assert!(target.starts_with('/') && target.len() > 1 && !target.split('/').any(|part| part == ".."));
            assert!(
                !["/proc", "/sys", "/dev"].iter().any(|own| target == own || target.starts_with(&format!("{own}/")))
            );
        }
        assert!(service.mounts.iter().all(|mount| mount.volume < plan.volumes.len()));
        assert!(service.tmpfs.iter().all(|tmpfs| tmpfs.bytes > 0 && tmpfs.mode.unwrap_or(0) <= 0o7777));
        assert!(service.health.iter().all(|h| !h.test.is_empty() && h.interval_ms > 0 && h.timeout_ms > 0));
        let variables = service.environment.iter().flat_map(|(name, value)| [name, value]);
        let words = service.command.iter().chain(&service.entrypoint).flatten();
        for text in variables.chain(words).chain([&service.image]) {
            assert!(text.len() <= TEXT_BYTES_MAX && !text.contains('\0'));
        }
    }
    let is_component = |name: &str| name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !name.contains('/');
    assert!(plan.volumes.iter().all(|volume| is_component(&volume.name)));
    assert!(plan.published.iter().all(|p| p.service < plan.services.len() && p.host_port != PORT && p.host_port > 0));
}

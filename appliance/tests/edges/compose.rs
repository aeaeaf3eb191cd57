//! Compose files as sources publish them, and as an attacker would.

use appliance::compose::{ComposeError, Exceptions, Offer, Plan, SERVICE_PORT};

mod anything;
mod hostile;
mod official;
mod refused;

fn offer() -> Offer {
    Offer {
        port: SERVICE_PORT,
        callback_url: "http://host.docker.internal:20000/t/task".into(),
        source_address: "0xS".into(),
        provider_address: "0xP".into(),
    }
}

fn parse(text: &str) -> Result<Plan, ComposeError> {
    Plan::parse(text, &offer(), &Exceptions::default())
}

/// A file with one service of these lines.
fn file(lines: &str) -> String {
    let service: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("services:\n  a:\n    image: i\n{service}")
}

/// The message for a file with one service of these lines.
fn says(lines: &str) -> String {
    parse(&file(lines)).map(|_| ()).expect_err(lines).to_string()
}

fn service(lines: &str) -> Plan {
    parse(&file(lines)).expect(lines)
}

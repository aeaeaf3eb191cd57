//! What runs inside the jails: `attack NAME [ARGUMENT…]` tries one thing and says what the kernel said.
//!
//! Its word is evidence, never the verdict: that is taken outside. An attack that is over prints `attacked` and then
//! holds still, so that whoever watches can look at what it has become. Standard output is its only voice, since a
//! jail may have no network.

mod kernel;

mod network;

mod output;

mod probes;

mod processes;

mod raw;

mod resources;

mod secrets;

mod worker;

use std::fmt::{Debug, Display};
use std::process::ExitCode;
use std::time::Duration;

/// What an attack gets: its arguments.
type Words<'a> = &'a [&'a str];

/// Name, and what it does.
type Attack = (&'static str, fn(Words<'_>));

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((name, words)) = words.split_first() else {
        eprintln!("attack: which?");
        return ExitCode::FAILURE;
    };
    let all = [
        resources::ATTACKS,
        processes::ATTACKS,
        kernel::ATTACKS,
        network::ATTACKS,
        secrets::ATTACKS,
        output::ATTACKS,
        worker::ATTACKS,
        probes::ATTACKS,
    ];
    let Some((_, attack)) = all.iter().flat_map(|attacks| attacks.iter()).find(|(known, _)| known == name) else {
        eprintln!("attack: there is no {name:?}");
        return ExitCode::FAILURE;
    };
    attack(words);
    println!("attacked");
    hold()
}

/// Waits to be looked at, and for the end.
fn hold() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Prints what became of one try.
fn said<T, E: Debug>(what: impl Display, outcome: Result<T, E>) {
    match outcome {
        Ok(_) => println!("{what}: OK"),
        Err(error) => println!("{what}: {error:?}"),
    }
}

/// The kernel's part of an error.
fn errno(error: std::io::Error) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// The number among the arguments at `index`, or else `default`.
fn number(words: Words<'_>, index: usize, default: i32) -> i32 {
    words.get(index).and_then(|word| word.parse().ok()).unwrap_or(default)
}

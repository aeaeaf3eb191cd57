//! `rig`: the command line. Everything it does is in the library; see [`provisioning`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    provisioning::command::main().into()
}

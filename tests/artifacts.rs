//! The committed contract artifacts are what their sources compile to, and offer what the SDK's ABIs promise.
//!
//! Both checks run the scripts that developers run, with the compiler and the SDK that `tests/setup.sh` installed.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a script of `provisioning/devnet/`; it must end well. What it says goes into the failure.
fn check_script(script: &str, arguments: &[&Path]) {
    let output = Command::new("node")
        .arg(root().join("provisioning/devnet").join(script))
        .args(arguments)
        .output()
        .expect("node runs; tests/setup.sh installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
}

#[test]
fn the_artifacts_are_what_their_sources_compile_to() {
    let modules = root().join("target/devnet/node_modules");
    check_script("compile.mjs", &[Path::new("--check"), Path::new("--modules"), &modules]);
}

#[test]
fn the_artifacts_offer_all_that_the_sdks_abis_promise() {
    let packages = root().join("target/sdk-venv/lib");
    let python = std::fs::read_dir(&packages).expect("tests/setup.sh makes target/sdk-venv");
    let abis = python
        .filter_map(Result::ok)
        .map(|version| version.path().join("site-packages/ogpu/chain/abis/mainnet"))
        .find(|folder| folder.is_dir())
        .expect("the SDK carries its ABIs");
    check_script("abi-check.mjs", &[Path::new("--sdk-abis"), &abis]);
}

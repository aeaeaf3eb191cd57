//! Prepares an emulator's state with swtpm_setup: certificates by a maker of its own, and banks of PCRs.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Puts certificates into the state, and gives the maker's root and issuer, DER.
pub(crate) fn certify(home: &Path) -> Vec<Vec<u8>> {
    run(home, &["--create-ek-cert", "--create-platform-cert", "--lock-nvram"]);
    ["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|name| certificate(&home.join("maker").join(name))).to_vec()
}

/// Makes a state with these banks of PCRs only.
pub(crate) fn banks(home: &Path, banks: &str) {
    run(home, &["--pcr-banks", banks]);
}

fn run(home: &Path, options: &[&str]) {
    let path = |name: &str| home.join(name).display().to_string();
    fs::create_dir(home.join("maker")).expect("a directory for the maker");
    let maker = format!(
        "statedir = {0}\nsigningkey = {0}/signkey.pem\nissuercert = {0}/issuercert.pem\ncertserial = {0}/certserial\n",
        path("maker")
    );
    let product = "--platform-manufacturer Tests\n--platform-version 1\n--platform-model Emulator\n";
    let tool = format!(
        "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n",
        path("maker.conf"),
        path("product.conf")
    );
    for (name, words) in [("maker.conf", maker.as_str()), ("product.conf", product), ("setup.conf", &tool)] {
        fs::write(home.join(name), words).expect("write the emulator's configuration");
    }
    let output = Command::new("swtpm_setup")
        .args(["--tpm2", "--overwrite", "--tpmstate", &path("state"), "--config", &path("setup.conf")])
        .args(options)
        .output()
        .expect("Debian's package swtpm-tools is installed");
    let words = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "swtpm_setup: {}", String::from_utf8_lossy(&words));
}

/// The first certificate of a PEM file, DER.
fn certificate(path: &Path) -> Vec<u8> {
    let output = Command::new("certtool")
        .args(["--certificate-info", "--outder", "--infile"])
        .arg(path)
        .output()
        .expect("certtool, which swtpm-tools needs, is installed");
    assert!(output.status.success(), "certtool {}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

//! The NVIDIA driver's modules before the kernel that has to take them: Secure Boot, lockdown, no GPU.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::archive::Archive;
use image::definition::Definition;
use image::keys::Keys;
use image::mirrors::Mirrors;
use image::nvidia::Trial;
use tempfile::TempDir;

use crate::lab::folder;

const ROW: &str = "Secure Boot: the NVIDIA driver's modules";

/// Not on an island, because packages may have to be fetched; the machine itself has no network.
#[test]
fn the_nvidia_drivers_modules_load_under_lockdown_and_no_others_do() {
    if let Err(error) = tried() {
        panic!("{ROW}: {error:#}");
    }
}

fn tried() -> Result<()> {
    let repository = Definition::repository(Path::new(env!("CARGO_MANIFEST_DIR")))?;
    let definition = Definition::read(&repository, "nvidia")?;
    let cache = repository.join("target/image/cache");
    let archive = Archive::new(Mirrors::of_this_machine()?, &cache);
    let init = folder()?.join("programs/rig-init");
    ensure!(init.is_file(), "there is no {}; tests/image-programs.sh builds it", init.display());
    let work = TempDir::with_prefix_in("driver-", folder()?)?;
    let keys = work.path().join("keys");
    Keys::make(&keys, &[])?;
    let trial = work.path().join("trial");
    fs::create_dir(&trial)?;
    let parts =
        Trial { definition: &definition, archive: &archive, cache: &cache, keys: &keys, init: &init, work: &trial };
    let lines = parts.run(&mut |word| println!("{word}")).with_context(|| {
        fs::read_to_string(trial.join("console.log")).unwrap_or_else(|_| "the machine was not started".to_owned())
    })?;
    let saw =
        format!("taken as signed, refused unsigned, a stranger's and changed; {}", lines.last().context("no words")?);
    println!("row: {ROW} | {saw}");
    Ok(())
}

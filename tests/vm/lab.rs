//! What a row gets: an image, an island with the local network on it, and rigs that were set up before.

use std::fs;
use std::path::{Path, PathBuf};

use alloy_primitives::Address;
use anyhow::{Context, Result};
use tempfile::TempDir;
use testbed::booted::{Booted, Hardware, address};
use testbed::island;
use testbed::stick::{SMALLEST_BYTES, Stick};
use testbed::town::Town;

/// The raw image that is booted.
const IMAGE: &str = "RIG_VM_IMAGE";

/// The same for disks with sectors of 4096 bytes.
const IMAGE_4K: &str = "RIG_VM_IMAGE_4K";

/// Where sticks and rows are written; target/vm if unset.
const FOLDER: &str = "RIG_VM_DIR";

/// A row's surroundings.
pub(crate) struct Lab {
    /// The local network.
    pub(crate) town: Town,
    dir: TempDir,
    image: PathBuf,
}

/// A rig whose first start lies behind it.
pub(crate) struct Settled {
    pub(crate) hardware: Hardware,
    pub(crate) stick: Stick,
    /// The account that it was born with.
    pub(crate) rig: Address,
}

/// Runs a row on an island. What `story` returns is what the table says of it; an error fails the test.
pub(crate) fn row(name: &str, story: impl AsyncFnOnce(&Lab) -> Result<String>) {
    let done = || -> Result<()> {
        island::enter()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let mut lab = Lab::build().await?;
            let saw = story(&lab).await;
            if saw.is_err() {
                lab.keep();
            }
            let saw = saw?;
            println!("row: {name} | {saw}");
            Ok(())
        })
    };
    if let Err(error) = done() {
        panic!("{name}: {error:#}");
    }
}

// === impl Lab ===

impl Lab {
    async fn build() -> Result<Lab> {
        let image = file(IMAGE)?;
        Ok(Lab { town: Town::build().await?, dir: TempDir::with_prefix_in("row-", folder()?)?, image })
    }

    /// Leaves what the row wrote, for somebody to look at.
    fn keep(&mut self) {
        self.dir.disable_cleanup(true);
        eprintln!("what the row wrote is in {}", self.dir.path().display());
    }

    /// Where a row may write.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new stick with the image and this network's settings on it.
    pub(crate) fn stick(&self, name: &str, bytes: u64) -> Result<Stick> {
        let stick = Stick::write(&self.image, &self.dir().join(name), bytes)?;
        stick.put("rig.toml", &self.town.settings()?)?;
        Ok(stick)
    }

    /// The same from the image for disks with large sectors.
    pub(crate) fn stick_4k(&self, name: &str) -> Result<Stick> {
        let stick = Stick::write(&file(IMAGE_4K)?, &self.dir().join(name), SMALLEST_BYTES)?;
        stick.put("rig.toml", &self.town.settings()?)?;
        Ok(stick)
    }

    /// A machine that never saw a stick.
    pub(crate) fn hardware(&self, name: &str) -> Result<Hardware> {
        Hardware::new(&self.dir().join(name))
    }

    /// A copy of a rig that was started once and switched off in order; it is made when the first row needs it.
    pub(crate) async fn settled(&self) -> Result<Settled> {
        let base = folder()?.join("base");
        let made_from = format!("{:?}", fs::metadata(&self.image)?.modified()?);
        if fs::read_to_string(base.join("made-from")).ok().as_deref() != Some(&made_from) {
            self.settle(&base).await?;
            fs::write(base.join("made-from"), made_from)?;
        }
        let machine = self.dir().join("settled");
        copy_folder(&base.join("machine"), &machine)?;
        let stick = Stick::open(&base.join("stick.raw")).duplicate(&self.dir().join("settled.raw"))?;
        // The network of that time had other ports.
        stick.put("rig.toml", &self.town.settings()?)?;
        let rig = fs::read_to_string(base.join("address"))?.trim().parse()?;
        Ok(Settled { hardware: Hardware::new(&machine)?, stick, rig })
    }

    async fn settle(&self, base: &Path) -> Result<()> {
        if base.exists() {
            fs::remove_dir_all(base)?;
        }
        let hardware = Hardware::new(&base.join("machine"))?;
        let stick = Stick::write(&self.image, &base.join("stick.raw"), SMALLEST_BYTES)?;
        stick.put("rig.toml", &self.town.settings()?)?;
        let booted = hardware.boot(&stick)?;
        let face = booted.wait_page().await.context("the first start of the rig that rows copy")?;
        fs::write(base.join("address"), address(&face)?.to_string())?;
        fs::write(base.join("seconds"), booted.elapsed().as_secs().to_string())?;
        booted.power_off().map(drop)
    }

    /// How long the first start of the settled rig took until its page answered, in seconds.
    pub(crate) async fn first_start_s(&self) -> Result<u64> {
        self.settled().await?;
        Ok(fs::read_to_string(folder()?.join("base/seconds"))?.parse()?)
    }
}

/// Boots until the page answers, checks that it is the rig it was, and switches it off. Returns the seconds to the page.
pub(crate) async fn comes_up_as(booted: Booted, rig: Address) -> Result<u64> {
    let face = booted.wait_page().await?;
    let took = booted.elapsed().as_secs();
    anyhow::ensure!(address(&face)? == rig, "it came up as another rig, {rig} was wanted: {face}");
    booted.power_off()?;
    Ok(took)
}

fn file(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os(name).map(PathBuf::from);
    path.with_context(|| format!("{name} names no image; tests/vm.sh builds one"))
}

/// The folder of all rows.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = std::env::var_os(FOLDER)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm"), PathBuf::from);
    fs::create_dir_all(&folder)?;
    Ok(folder.canonicalize()?)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

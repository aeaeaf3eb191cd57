//! `rig flash`: a release onto a stick, and the owner's settings with it.
//!
//! Invariants: the release is proven before a disk is opened; the person sees which disk it is, and what is on it, before
//! anything there is lost; settings that cannot be right are refused before that, too.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use thiserror::Error;

use super::cells::bytes_words;
use super::seed::{SettingsArgs, Wanted, remark};
use crate::exit::{Exit, Failure};
use crate::flash::form;
use crate::flash::release::{self, Files, Release, ReleaseError, Trust};
use crate::flash::settings::WishError;
use crate::flash::stick::{Stick, StickError};
use crate::flash::target::{Target, TargetError};
use crate::flash::write::{self, Pace, Phase, Watch, WriteError, Written};
use crate::person;
use crate::screen::Screen;

mod choice;

use self::choice::Destination;

/// The vendor's release key.
const ENV_KEY: &str = "RIG_RELEASE_KEY";

/// Write a release to a stick, with the settings of your rig on it.
///
/// Proves the release first: the vendor's signature of its manifest, then every 4 MiB before they are written. Lists
/// removable disks only, and refuses a disk that this computer uses. What was written is read back and compared. The
/// partition table comes last, so a stick whose writing was cut does not boot and is simply written again.
///
/// Settings come from the options below, from a file, or, if none is given, from a few questions. One image serves any
/// number of rigs. Everything also works with any other program that writes images, and a text editor for rig.toml on
/// the volume RIG.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig flash --list
  sudo rig flash rig-1.2.3-generic.raw.zst --key vendor.pub
  sudo rig flash rig-1.2.3-generic.raw.zst /dev/sdb --key vendor.pub --owner 0x70997970C51812dc3A010C7d01b50e0d17dc79C8
  sudo rig flash rig-1.2.3-nvidia.raw.zst /dev/nvme1n1 --fixed /dev/nvme1n1 --key vendor.pub --yes
  rig flash rig-1.2.3-generic.raw --to-file stick.img --size 4GB --key vendor.pub --settings rig.toml

Exit codes: 0 the stick holds the release, every byte read back; 1 it does not, and does not boot; 2 nothing was
written: the command, the release, the disk or a setting was refused.")]
pub(crate) struct Flash {
    /// The image, .raw or .raw.zst. Its .manifest.json and .manifest.sig lie beside it.
    #[arg(value_name = "IMAGE", required_unless_present = "list")]
    image: Option<PathBuf>,
    /// The disk to write, such as /dev/sdb. Left out: choose from a list.
    #[arg(value_name = "DISK", conflicts_with = "to_file")]
    disk: Option<PathBuf>,
    /// Only list the removable disks.
    #[arg(long)]
    list: bool,
    /// The vendor's release key: 66 or 130 hexadecimal digits, or a file with them.
    #[arg(long, value_name = "HEX|FILE", env = ENV_KEY, value_parser = release::key)]
    key: Option<layout::manifest::PublicKey>,
    /// Write an image whose maker nobody vouches for.
    #[arg(long, conflicts_with = "key")]
    unverified: bool,
    /// The manifest, if it is not beside the image.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The manifest's signature, if it is not beside the image.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Write a file that stands for a disk, in place of a disk.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fixed", "unmount"])]
    to_file: Option<PathBuf>,
    /// How large that disk is, such as 4GB or 8GiB.
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = choice::size)]
    size: u64,
    /// Unmount the disk first, if it is mounted where plugged-in disks are.
    #[arg(long)]
    unmount: bool,
    /// Write a disk that is built in: name it here once more.
    #[arg(long, value_name = "DISK", requires = "disk")]
    fixed: Option<PathBuf>,
    /// Do not ask anything.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Why a stick is not whole.
#[derive(Debug, Error)]
enum FlashError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Stick(#[from] StickError),
    #[error(transparent)]
    Wish(#[from] WishError),
}

#[derive(Debug, Serialize)]
struct Answer {
    disk: PathBuf,
    verified: bool,
    version: Option<String>,
    flavour: Option<String>,
    bytes: u64,
    written_bytes: u64,
    skipped_bytes: u64,
    compared_bytes: u64,
    seconds: f64,
    settings_changed: bool,
    owner: Option<String>,
}

// === impl Flash ===

impl Flash {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let Some(image) = self.image.as_deref().filter(|_| !self.list) else {
            return choice::list(screen);
        };
        let trust = self.trust()?;
        let files = Files::beside(image, self.manifest.clone(), self.signature.clone());
        let release = Release::open(&files, &trust)?;
        self.introduce(&release, screen);
        let wanted = self.wanted(screen)?;
        // On its own first: what cannot be right is said before a disk is touched.
        if !wanted.is_empty() {
            wanted.reach(&wanted.checked("")?, screen).await?;
        }
        let destination = self.destination(&release, &files, screen)?;
        let target = destination.open()?;
        let device = target.name().to_owned();
        let began = Instant::now();
        let (release, done) = act(release, target, wanted, screen).await?;
        remark(&done.checked, screen);
        let manifest = release.manifest();
        let answer = Answer {
            disk: device,
            verified: matches!(trust, Trust::Key(_)),
            version: manifest.map(|manifest| manifest.version.clone()),
            flavour: manifest.map(|manifest| manifest.flavour.clone()),
            bytes: release.bytes(),
            written_bytes: done.written.written_bytes,
            skipped_bytes: done.written.skipped_bytes,
            compared_bytes: done.written.compared_bytes,
            seconds: began.elapsed().as_secs_f64(),
            settings_changed: done.is_changed,
            owner: done.checked.owner.map(|owner| owner.to_string()),
        };
        screen.answer(&answer, || answer.describe());
        Ok(())
    }

    fn trust(&self) -> Result<Trust, Failure> {
        match &self.key {
            Some(key) => Ok(Trust::Key(key.clone())),
            None if self.unverified => Ok(Trust::Nobody),
            None => {
                let failure = Failure::new(Exit::Usage, "whose release this must be is not said");
                Err(failure.next(format!("name the vendor's key with --key or {ENV_KEY}; or say --unverified")))
            }
        }
    }

    fn introduce(&self, release: &Release, screen: Screen) {
        let size = bytes_words(release.bytes());
        match release.manifest() {
            Some(manifest) if !self.unverified => {
                screen.note(&format!("Release {} ({}), {size}: signed.", manifest.version, manifest.flavour));
            }
            Some(_) | None => screen.note(&format!("Warning: nobody vouches for this image of {size} (--unverified).")),
        }
    }

    fn wanted(&self, screen: Screen) -> Result<Wanted, Failure> {
        let mut wanted = self.settings.read()?;
        if wanted.is_empty() && !self.yes && !screen.json && person::is_there() {
            screen.note("Settings of this rig (all of them can be changed later: rig seed, or any text editor).");
            wanted.wishes = form::ask().map_err(|error| Failure::new(Exit::Failed, error))?;
        }
        Ok(wanted)
    }

    fn destination(&self, release: &Release, files: &Files, screen: Screen) -> Result<Destination, Failure> {
        let need = choice::need(release);
        let may_ask = !self.yes && !screen.json && person::is_there();
        if let Some(path) = &self.to_file {
            choice::apart(path, files)?;
            let destination = Destination::file(path, self.size, need)?;
            if may_ask {
                choice::confirm_file(path, screen)?;
            }
            return Ok(destination);
        }
        let asked =
            choice::Asked { disk: self.disk.as_deref(), fixed: self.fixed.as_deref(), unmount: self.unmount, may_ask };
        let disk = asked.choose(need, screen)?;
        if !self.yes {
            asked.confirm(&disk, screen)?;
        }
        Ok(Destination::Disk(disk))
    }
}

/// What came of it.
struct Done {
    written: Written,
    checked: crate::flash::settings::Checked,
    is_changed: bool,
}

/// Writes, in a thread that may block, until it is done or Ctrl-C is pressed.
async fn act(release: Release, mut target: Target, wanted: Wanted, screen: Screen) -> Result<(Release, Done), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&stop);
    let listener = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            heard.store(true, Ordering::Relaxed);
        }
    });
    let name = target.name().to_owned();
    let task = tokio::task::spawn_blocking(move || {
        let done = flash(&release, &mut target, &wanted, &stop, screen);
        (release, done)
    });
    let ended = task.await.map_err(|error| Failure::new(Exit::Failed, error))?;
    listener.abort();
    match ended {
        (release, Ok(done)) => Ok((release, done)),
        (_, Err(error)) => Err(unfinished(&name, error)),
    }
}

fn flash(
    release: &Release,
    target: &mut Target,
    wanted: &Wanted,
    stop: &AtomicBool,
    screen: Screen,
) -> Result<Done, FlashError> {
    let mut shown: Option<(Phase, crate::screen::Measure)> = None;
    let mut progress = |phase: Phase, pace: &Pace| {
        if shown.as_ref().is_none_or(|(before, _)| *before != phase) {
            shown = None;
            shown = Some((phase, screen.measure(pace.total_bytes())));
        }
        if let Some((_, bar)) = &shown {
            bar.say(pace.done_bytes(), words(phase, pace));
        }
    };
    let mut watch = Watch { progress: &mut progress, stop };
    let mut settled = None;
    let written = write::write(release, target, &mut watch, |target| {
        let mut stick = Stick::within(target, release.table())?;
        let before = stick.settings()?;
        let checked = wanted.checked(&before)?;
        let is_changed = *checked.text != before;
        if is_changed {
            stick.write_settings(&checked.text)?;
        }
        settled = Some((checked, is_changed));
        Ok::<(), FlashError>(())
    })?;
    let (checked, is_changed) = settled.expect("a writing that ends well has settled");
    Ok(Done { written, checked, is_changed })
}

fn words(phase: Phase, pace: &Pace) -> String {
    let doing = match phase {
        Phase::Writing => "writing",
        Phase::ReadingBack => "reading back",
    };
    let speed = pace.bytes_per_second().map_or_else(String::new, |speed| format!(", {}/s", bytes_words(speed)));
    let left = pace.left().map_or_else(String::new, |left| format!(", {} left", span_words(left)));
    format!("{doing} {} of {}{speed}{left}", bytes_words(pace.done_bytes()), bytes_words(pace.total_bytes()))
}

fn span_words(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..=90 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

/// Says what state the disk is in, and what to do.
fn unfinished(name: &std::path::Path, error: FlashError) -> Failure {
    let disk = name.display();
    let next = match &error {
        FlashError::Write(WriteError::Stopped) => "run the same command again; it begins anew".to_owned(),
        FlashError::Write(WriteError::Release(_)) => "download the release again, and run the command again".to_owned(),
        FlashError::Write(WriteError::Target(TargetError::Gone(_))) => {
            "plug it in again, another way if you can, and run the command again".to_owned()
        }
        FlashError::Write(WriteError::Target(_) | WriteError::Differs { .. }) | FlashError::Stick(_) => {
            "try another port or reader; if it happens again the stick is broken, use another".to_owned()
        }
        FlashError::Wish(_) => "correct the setting, and run the command again".to_owned(),
    };
    Failure::new(Exit::Failed, Unfinished { disk: disk.to_string(), source: error }).next(next)
}

/// A disk that holds a part of a release.
#[derive(Debug, Error)]
#[error("{disk} was not written to its end: it does not boot now")]
struct Unfinished {
    disk: String,
    #[source]
    source: FlashError,
}

// === impl Answer ===

impl Answer {
    fn describe(&self) -> String {
        let release = match (&self.version, &self.flavour) {
            (Some(version), Some(flavour)) => format!("release {version} ({flavour})"),
            (_, _) => "the image".to_owned(),
        };
        let (written, skipped) = (bytes_words(self.written_bytes), bytes_words(self.skipped_bytes));
        let disk = self.disk.display();
        let seconds = self.seconds;
        format!(
            "{disk} holds {release}: {written} written, {skipped} of zeros left as they were, all of it read back and \
             right, in {seconds:.0} s.\nPut it into the rig and switch it on."
        )
    }
}

impl From<ReleaseError> for Failure {
    fn from(error: ReleaseError) -> Failure {
        let next = match &error {
            ReleaseError::Read { .. } => "the image's .manifest.json and .manifest.sig lie beside it, or are named",
            ReleaseError::Manifest { .. } => "download it again from the vendor, and compare the key with the vendor's",
            ReleaseError::Long { .. } | ReleaseError::Table { .. } | ReleaseError::Sectors { .. } => {
                "name a rig's image: rig-VERSION-FLAVOUR.raw.zst or .raw"
            }
            ReleaseError::Differs { .. } | ReleaseError::Short { .. } | ReleaseError::Beyond { .. } => {
                "download the image again"
            }
        };
        Failure::new(Exit::Usage, error).next(next)
    }
}

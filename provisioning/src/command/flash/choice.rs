//! Which disk is written: named, or chosen from a list; refused, unmounted, and asked about.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use serde::Serialize;
use thiserror::Error;

use crate::command::cells::bytes_words;
use crate::exit::{Exit, Failure};
use crate::flash::disks::{Allowed, Bus, Disk, Need, Refusal, STATE_BYTES_MIN, System};
use crate::flash::release::{Files, Release};
use crate::flash::target::{Target, TargetError};
use crate::person;
use crate::screen::{Screen, Table};

/// A disk that a file stands for ends where partitions may begin.
const FILE_STEP_BYTES: u64 = 1 << 20;

/// What is written.
#[derive(Debug)]
pub(super) enum Destination {
    Disk(Disk),
    File { path: PathBuf, bytes: u64 },
}

/// What the person said about the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) disk: Option<&'a Path>,
    pub(super) fixed: Option<&'a Path>,
    pub(super) unmount: bool,
    pub(super) may_ask: bool,
}

/// A disk in the list.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    disk: Disk,
    /// Why it would not be written; `None`: it would.
    refused: Option<String>,
}

/// A disk that is not written, and why.
#[derive(Debug, Error)]
#[error("{device} is not written: {refusal}")]
struct Refused {
    device: String,
    refusal: Refusal,
}

/// What `release` needs of a disk.
pub(super) fn need(release: &Release) -> Need {
    Need { bytes: release.bytes(), sector_bytes: release.table().sector_bytes }
}

/// `rig flash --list`
pub(super) fn list(screen: Screen) -> Result<(), Failure> {
    let disks: Vec<Disk> = System::here().disks().into_iter().filter(|disk| disk.is_removable).collect();
    let rows: Vec<Row> = disks.into_iter().map(|disk| row(disk, None)).collect();
    screen.answer(&serde_json::json!({ "disks": rows }), || match rows.is_empty() {
        true => "No removable disk is plugged in.".to_owned(),
        false => screen.table(&table(&rows)),
    });
    Ok(())
}

fn row(disk: Disk, need: Option<Need>) -> Row {
    let need = need.unwrap_or(Need { bytes: 0, sector_bytes: disk.sector_bytes });
    let refused = disk.judge(need, Allowed::default()).err().map(|refusal| refusal.to_string());
    Row { disk, refused }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::with_header(["", "disk", "size", "what", "serial", "on it now", ""]);
    for (number, Row { disk, refused }) in (1_usize..).zip(rows) {
        let bus = match disk.bus {
            Bus::Usb => "USB",
            Bus::Sd => "SD card",
            Bus::Emmc => "eMMC",
            Bus::Nvme => "NVMe",
            Bus::Loop => "loop",
            Bus::Other => "",
        };
        let what =
            [disk.model.as_str(), bus].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
        let holds = if disk.holds.is_empty() { "nothing known".to_owned() } else { disk.holds.join(", ") };
        let refused = refused.as_ref().map_or_else(String::new, |why| format!("not usable: {why}"));
        let device = disk.device.display().to_string();
        table.push([number.to_string(), device, bytes_words(disk.bytes), what, disk.serial.clone(), holds, refused]);
    }
    table
}

// === impl Asked ===

impl Asked<'_> {
    /// The disk, which may be written.
    pub(super) fn choose(&self, need: Need, screen: Screen) -> Result<Disk, Failure> {
        let disk = match self.disk {
            Some(path) => named(path)?,
            None => self.pick(need, screen)?,
        };
        let is_fixed_meant = self.fixed.map(named).transpose()?.is_some_and(|fixed| fixed.number == disk.number);
        let allowed = Allowed { fixed: is_fixed_meant, unmount: self.unmount };
        disk.judge(need, allowed).map_err(|refusal| refused(&disk, refusal))?;
        Ok(disk)
    }

    fn pick(&self, need: Need, screen: Screen) -> Result<Disk, Failure> {
        let disks = System::here().disks().into_iter().filter(|disk| disk.is_removable);
        let mut rows: Vec<Row> = disks.map(|disk| row(disk, Some(need))).collect();
        if rows.is_empty() {
            let failure = Failure::new(Exit::Usage, "no removable disk is plugged in");
            return Err(failure.next("plug a stick in; a disk that is built in is named twice: DISK --fixed DISK"));
        }
        if !self.may_ask {
            let failure = Failure::new(Exit::Usage, "which disk to write is not said");
            return Err(failure.next("name it: rig flash IMAGE /dev/sdX; rig flash --list shows what there is"));
        }
        screen.note(&screen.table(&table(&rows)));
        let answer = person::answer("Which disk, by its number or name? ");
        let answer = answer.map_err(|error| Failure::new(Exit::Failed, error))?;
        let is_meant = |(index, row): (usize, &Row)| {
            answer == (index + 1).to_string() || answer == row.disk.name || Path::new(&answer) == row.disk.device
        };
        match rows.iter().enumerate().position(is_meant) {
            Some(index) => Ok(rows.swap_remove(index).disk),
            None => Err(Failure::new(Exit::Usage, format!("{answer:?} is none of them")).next("nothing was changed")),
        }
    }

    /// Shows what will be lost, and asks whether that is meant.
    pub(super) fn confirm(&self, disk: &Disk, screen: Screen) -> Result<(), Failure> {
        let holds = if disk.holds.is_empty() { "nothing known".to_owned() } else { disk.holds.join(", ") };
        let (device, size) = (disk.device.display(), bytes_words(disk.bytes));
        let Disk { model, serial, .. } = disk;
        screen.note(&format!("Everything on {device} will be lost: {size}, {model} {serial}, on it now: {holds}."));
        if !self.may_ask {
            let failure = Failure::new(Exit::Usage, "nobody is there to be asked whether that is meant");
            return Err(failure.next("say --yes"));
        }
        go_on()
    }
}

fn go_on() -> Result<(), Failure> {
    match person::agrees("Go on?").map_err(|error| Failure::new(Exit::Failed, error))? {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, "nothing was changed")),
    }
}

/// Refuses to write over a file of the release itself, by whatever name: the first step would destroy what is to be read.
pub(super) fn apart(path: &Path, files: &Files) -> Result<(), Failure> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let Some(target) = identity(path) else { return Ok(()) };
    match [&files.image, &files.manifest, &files.signature].into_iter().find(|file| identity(file) == Some(target)) {
        None => Ok(()),
        Some(file) => {
            let words = format!("{} is the release's own {}", path.display(), file.display());
            Err(Failure::new(Exit::Usage, words).next("name another file with --to-file"))
        }
    }
}

/// Asks about a file that holds something.
pub(super) fn confirm_file(path: &Path, screen: Screen) -> Result<(), Failure> {
    let held = fs::metadata(path).map_or(0, |found| found.len());
    if held == 0 {
        return Ok(());
    }
    screen.note(&format!(
        "Everything in {} will be lost: it is there already, with {}.",
        path.display(),
        bytes_words(held)
    ));
    go_on()
}

/// The disk at `path`, which may be a link such as those below /dev/disk.
fn named(path: &Path) -> Result<Disk, Failure> {
    let unknown = |why: &str| {
        let failure = Failure::new(Exit::Usage, format!("{} {why}", path.display()));
        failure.next("rig flash --list shows the removable disks; a file takes --to-file FILE")
    };
    let real = fs::canonicalize(path).map_err(|_| unknown("is not there"))?;
    let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if Path::new("/sys/class/block").join(&name).join("partition").exists() {
        return Err(unknown("is a partition, and a rig needs the whole disk"));
    }
    let disk = System::here().disk(&name).filter(|disk| disk.device == real);
    disk.ok_or_else(|| unknown("is no disk"))
}

fn refused(disk: &Disk, refusal: Refusal) -> Failure {
    let device = disk.device.display().to_string();
    let next = match &refusal {
        Refusal::System { .. } | Refusal::Swap(_) | Refusal::Held(_) => "choose another disk".to_owned(),
        Refusal::Mounted { .. } => "eject it, or say --unmount".to_owned(),
        Refusal::Fixed => format!("if it is really meant, and nothing on it is needed, say --fixed {device}"),
        Refusal::ReadOnly | Refusal::Empty => "look at it, and try again".to_owned(),
        Refusal::Small { .. } => "use a larger one".to_owned(),
        Refusal::Sectors { needs: 512, .. } => "use the image for sectors of 4096 bytes".to_owned(),
        Refusal::Sectors { .. } => "use the image for sectors of 512 bytes".to_owned(),
    };
    Failure::new(Exit::Usage, Refused { device, refusal }).next(next)
}

// === impl Destination ===

impl Destination {
    /// A file of `bytes` that stands for a disk.
    pub(super) fn file(path: &Path, bytes: u64, need: Need) -> Result<Destination, Failure> {
        let bytes = bytes / FILE_STEP_BYTES * FILE_STEP_BYTES;
        let needs = need.bytes.saturating_add(STATE_BYTES_MIN);
        if bytes < needs {
            let refusal = Refusal::Small { has: bytes >> 20, needs: needs.div_ceil(1 << 20) };
            let failure = Failure::new(Exit::Usage, Refused { device: path.display().to_string(), refusal });
            return Err(failure.next("say a larger --size"));
        }
        Ok(Destination::File { path: path.to_owned(), bytes })
    }

    /// Opens it, after unmounting it, and makes sure that it is still the disk that was agreed upon.
    pub(super) fn open(&self) -> Result<Target, Failure> {
        let disk = match self {
            Destination::File { path, bytes } => return Ok(Target::file(path, *bytes)?),
            Destination::Disk(disk) => disk,
        };
        for at in disk.mounts() {
            umount2(at, MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| {
                let failure = Failure::new(Exit::Usage, format!("unmount {}: {}", at.display(), errno.desc()));
                failure.next("close what has files open there; unmounting needs root")
            })?;
        }
        let target = Target::disk(&disk.device)?;
        let now = System::here().disk(&disk.name);
        let is_same = |now: &Disk| (&now.serial, now.bytes, now.sequence) == (&disk.serial, disk.bytes, disk.sequence);
        if target.number().as_ref() != Some(&disk.number) || !now.as_ref().is_some_and(is_same) {
            return Err(TargetError::Gone(disk.device.clone()).into());
        }
        Ok(target)
    }
}

/// Reads a size: a whole number and `MB`, `GB`, `TB`, or `MiB`, `GiB`, `TiB`; a letter alone is the latter.
///
/// Errors: a sentence.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("a size looks like 4GB or 8GiB, not `{text}`");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit.trim() {
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_shops_say_them_or_as_programs_do() {
        for (text, bytes) in [
            ("4GB", 4_000_000_000),
            ("4G", 4 << 30),
            ("8GiB", 8 << 30),
            ("512MiB", 512 << 20),
            ("1TB", 1_000_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "4", "GB", "4gb", "-4GB", "4.5GB", "99999999999TB", "4 K"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}

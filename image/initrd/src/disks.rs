//! Waits for the disk that the root is on.
//!
//! One thread a disk, so that a dying one, whose every read takes half a minute, holds up nobody else. A disk that is
//! passed over is said once, with the reason; what comes later, as a stick on a slow port does, is looked at when it comes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use initrd::candidate::{self, Candidate, DISKS_MAX, Place, Unfit};
use layout::gpt::{GptError, Table};
use layout::verity::{self, RootHash, VerityError};

use crate::machine::read_bounded;
use crate::{chain, console};

/// A stick behind two hubs takes ten seconds.
const WAIT: Duration = Duration::from_secs(30);

/// A disk without a state may be a spare stick: for so long the rig's own, on a slower port, is waited for. Only a first
/// start is that much longer.
const FOR_OWN: Duration = Duration::from_secs(2);

/// Between two looks at what there is.
const PAUSE: Duration = Duration::from_millis(50);

/// A number in sysfs is at most so long.
const NUMBER_MAX: u64 = 64;

/// Why no disk was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DisksError {
    #[error("no disk has the root {root} after {} s; looked at: {looked_at}", WAIT.as_secs())]
    None { root: RootHash, looked_at: String },
    #[error("the kernel's list of disks cannot be read")]
    List(#[source] io::Error),
}

/// Why one disk is passed over.
#[derive(Debug, thiserror::Error)]
enum Passed {
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    #[error(transparent)]
    Table(#[from] GptError),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("the kernel does not show its partition {0}; the primary partition table may be damaged")]
    NoDevice(u32),
    #[error(transparent)]
    Verity(#[from] VerityError),
}

struct Judged {
    disk: String,
    verdict: Result<Candidate, Passed>,
}

/// The disk to start from.
pub(crate) fn wait_for(root: &RootHash) -> Result<Candidate, DisksError> {
    let deadline = Instant::now() + WAIT;
    let (judged, verdicts) = mpsc::channel();
    let mut seen = BTreeSet::new();
    let (mut found, mut for_own) = (Vec::new(), None);
    loop {
        for disk in disks()? {
            if seen.len() < DISKS_MAX && seen.insert(disk.clone()) {
                look_at(disk, *root, deadline, judged.clone());
            }
        }
        found.extend(next(&verdicts));
        if let Some(chosen) = candidate::choose(found.clone()) {
            let until = *for_own.get_or_insert_with(|| deadline.min(Instant::now() + FOR_OWN));
            if chosen.machine.is_some() || Instant::now() >= until {
                return Ok(chosen);
            }
        } else if Instant::now() >= deadline {
            let looked_at = if seen.is_empty() { "nothing".to_owned() } else { Vec::from_iter(seen).join(" ") };
            return Err(DisksError::None { root: *root, looked_at });
        }
    }
}

/// All that was found fit until now, after a pause if nothing was judged.
fn next(verdicts: &Receiver<Judged>) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let first = match verdicts.recv_timeout(PAUSE) {
        Ok(first) => first,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return candidates,
    };
    for Judged { disk, verdict } in std::iter::once(first).chain(verdicts.try_iter()) {
        match verdict {
            Ok(candidate) => candidates.push(candidate),
            Err(passed) => console::warn(&format!("disk {disk} is passed over: {}", chain(&passed))),
        }
    }
    candidates
}

/// Names of what may be disks, in order.
fn disks() -> Result<Vec<String>, DisksError> {
    let entries = fs::read_dir("/sys/block").map_err(DisksError::List)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| candidate::is_disk(name)).collect();
    names.sort();
    Ok(names)
}

fn look_at(disk: String, root: RootHash, deadline: Instant, judged: Sender<Judged>) {
    thread::spawn(move || {
        let verdict = judge(&disk, &root, deadline);
        // Nobody listens once a disk is chosen.
        let _ = judged.send(Judged { disk, verdict });
    });
}

fn judge(disk: &str, root: &RootHash, deadline: Instant) -> Result<Candidate, Passed> {
    let mut whole = open_when_there(disk, deadline)?;
    let table = Table::read(&mut whole)?;
    let candidate = Candidate::find(disk, &table, root)?;
    wait_for_partition(disk, &candidate.root, deadline)?;
    wait_for_partition(disk, &candidate.verity, deadline)?;
    let mut data = File::open(format!("/dev/{}", candidate.root.device(disk))).map_err(Passed::Open)?;
    let mut tree = File::open(format!("/dev/{}", candidate.verity.device(disk))).map_err(Passed::Open)?;
    verity::check_first(&mut data, &mut tree, root)?;
    Ok(candidate)
}

/// The node in `/dev` comes a moment after the disk is listed; a drive without a medium never opens.
fn open_when_there(disk: &str, deadline: Instant) -> Result<File, Passed> {
    loop {
        match File::open(format!("/dev/{disk}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => thread::sleep(PAUSE),
            opened => return opened.map_err(Passed::Open),
        }
    }
}

/// The kernel reads the table by itself, a moment after the disk is there, and must come to the same place.
fn wait_for_partition(disk: &str, place: &Place, deadline: Instant) -> Result<(), Passed> {
    let device = place.device(disk);
    let folder = Path::new("/sys/block").join(disk).join(&device);
    let node = Path::new("/dev").join(&device);
    // Five seconds are many times what the slowest stick needs to show its table.
    let until = deadline.min(Instant::now() + Duration::from_secs(5));
    while Instant::now() < until {
        let number = |key| read_bounded(&folder.join(key), NUMBER_MAX).unwrap_or_default();
        if place.is_as_kernel_sees(&number("start"), &number("size")) && node.exists() {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    Err(Passed::NoDevice(place.number))
}

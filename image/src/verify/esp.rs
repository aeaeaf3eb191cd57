//! The boot partition: what firmware and loader would start from it.
//!
//! Invariants: every program on it is accounted for, and so is every file that the loader or the kernel image's stub takes
//! up from a folder of its own; what is not the release's is refused, unless the vendor's certificate vouches for it.

use std::fs::File;

use layout::Window;
use layout::entry::EntryName;
use layout::fat::{Entry, Fat, Reading};
use layout::gpt::{Partition, Table};
use layout::manifest::Manifest;
use layout::uki::Uki;
use sha2::{Digest, Sha256};

use super::{Copy, Evidence, Outcome, PART_LOADER, PART_UKI, Report, chain};
use crate::esp::LOADER_CONF;
use crate::sign::authenticode;

const LOADER_PATH: &str = "/efi/boot/bootx64.efi";
const ENTRIES_FOLDER: &str = "/efi/linux/";
const PROGRAM_SUFFIX: &str = ".efi";
const LOADER_SETTINGS: &str = "/loader/loader.conf";
/// Where loader and stub find more to start, or to give to what they start. A release has nothing there but its kernel
/// image. Source: systemd-boot(7), systemd-stub(7).
const TAKEN_UP: [&str; 4] = [ENTRIES_FOLDER, "/loader/entries/", "/loader/addons/", "/loader/credentials/"];

const FILES: &str = "boot partition";
const LOADER: &str = "loader";
const KERNEL: &str = "kernel image";
const SECURE_BOOT: &str = "Secure Boot";
const OTHERS: &str = "other programs";

const BY_THE_SAME: &str = "signed by the same key";

pub(super) fn verify(
    disk: &File,
    table: &Table,
    esp: &Partition,
    copy: Copy,
    manifest: &Manifest,
    evidence: &Evidence,
    report: &mut Report,
) {
    let mut window = Window::new(disk, esp.offset(table), esp.bytes(table));
    let opened =
        Fat::open(&mut window, Reading::Strict).and_then(|mut fat| fat.entries().map(|entries| (fat, entries)));
    let opened = opened.map(|(fat, entries)| {
        let files = entries.iter().filter(|entry| !entry.is_folder).count();
        ((fat, entries), format!("{files} files, no two on one place"))
    });
    let Some((mut fat, entries)) = report.take(FILES, opened.map_err(|error| chain(&error))) else { return };

    let programs: Vec<&Entry> =
        entries.iter().filter(|entry| !entry.is_folder && lower(entry).ends_with(PROGRAM_SUFFIX)).collect();
    let read = |fat: &mut Fat<_>, entry: &Entry| fat.read(entry).map_err(|error| chain(&error));
    let mut ours = Vec::new();
    let loader = programs.iter().find(|entry| lower(entry) == LOADER_PATH);
    let loader = loader.ok_or_else(|| "there is none: firmware would not start this disk".to_owned());
    let loader = loader.and_then(|entry| Ok((*entry, read(&mut fat, entry)?)));
    let loader = loader.and_then(|(entry, bytes)| {
        part(manifest, PART_LOADER, &entry.path, &bytes).map(|words| ((entry, bytes), words))
    });
    if let Some((entry, bytes)) = report.take(LOADER, loader) {
        ours.push(&entry.path);
        signature(&bytes, LOADER, evidence, report);
    }

    // What the vendor signed may be the other slot's, and is then only not compared.
    let (mut others, mut strangers) = (Vec::new(), Vec::new());
    for entry in programs.iter().filter(|entry| lower(entry) != LOADER_PATH) {
        match read(&mut fat, entry) {
            Ok(bytes) if is_part(manifest, PART_UKI, &bytes) => {
                let words = kernel(entry, &bytes, manifest);
                if report.take(KERNEL, words.map(|words| ((), words))).is_some() {
                    signature(&bytes, KERNEL, evidence, report);
                }
                ours.push(&entry.path);
            }
            Ok(bytes) => {
                let signer = signer(&bytes, evidence);
                let list = if signer == BY_THE_SAME { &mut others } else { &mut strangers };
                list.push(format!("{} ({signer})", entry.path));
            }
            Err(words) => strangers.push(format!("{} ({words})", entry.path)),
        }
    }
    if !ours.iter().any(|path| path.to_lowercase().starts_with(ENTRIES_FOLDER)) {
        report.push(KERNEL, Outcome::Refused, "no file on the boot partition is the release's kernel image");
    }
    let is_taken_up = |entry: &&Entry| {
        let path = lower(entry);
        !entry.is_folder && !path.ends_with(PROGRAM_SUFFIX) && TAKEN_UP.iter().any(|folder| path.starts_with(folder))
    };
    strangers.extend(entries.iter().filter(is_taken_up).map(|entry| entry.path.clone()));
    match copy {
        Copy::Image => strangers.append(&mut others),
        Copy::Disk => {
            let settings = entries.iter().find(|entry| lower(entry) == LOADER_SETTINGS);
            let read = settings.and_then(|entry| fat.read(entry).ok());
            if read.as_deref() != Some(LOADER_CONF.as_bytes()) {
                let words =
                    format!("{LOADER_SETTINGS} is not as this program writes it; it may prefer another release");
                report.push(OTHERS, Outcome::NotChecked, words);
            }
        }
    }
    if !others.is_empty() {
        report.push(OTHERS, Outcome::NotChecked, format!("of another release: {}", others.join(", ")));
    }
    if !strangers.is_empty() {
        let hint = match (copy, &evidence.database) {
            (Copy::Disk, None) => "; if it is another release of the same vendor's, give the certificate",
            (Copy::Disk | Copy::Image, _) => "",
        };
        report.push(OTHERS, Outcome::Refused, format!("{}{hint}", strangers.join(", ")));
    }
}

fn lower(entry: &Entry) -> String {
    entry.path.to_lowercase()
}

fn is_part(manifest: &Manifest, name: &str, bytes: &[u8]) -> bool {
    manifest.parts.get(name).is_some_and(|part| part.sha256.0 == <[u8; 32]>::from(Sha256::digest(bytes)))
}

fn part(manifest: &Manifest, name: &str, path: &str, bytes: &[u8]) -> Result<String, String> {
    match (is_part(manifest, name, bytes), manifest.parts.get(name)) {
        (true, _) => Ok(format!("{path} is the release's {name}, {} bytes", bytes.len())),
        (false, Some(_)) => Err(format!("{path} is not the release's {name}")),
        (false, None) => Err(format!("the manifest names no {name}")),
    }
}

/// The file's own digest was right; now whether it starts the root of the manifest, and would be found.
fn kernel(entry: &Entry, bytes: &[u8], manifest: &Manifest) -> Result<String, String> {
    let uki = Uki::read(bytes).map_err(|error| chain(&error))?;
    match uki.root_hash() {
        Some(hash) if hash == manifest.root_hash => {}
        Some(hash) => return Err(format!("{} starts another root: {hash}", entry.path)),
        None => return Err(format!("{} names no root on its command line", entry.path)),
    }
    let name = entry.path.rsplit('/').next().unwrap_or_default();
    let name: EntryName = name.parse().map_err(|error| format!("{}: {}", entry.path, chain(&error)))?;
    if name.version != manifest.version {
        return Err(format!(
            "{} goes by the version {}, and the release is {}",
            entry.path, name.version, manifest.version
        ));
    }
    Ok(format!("{} is the release's {PART_UKI} and starts its root, {} bytes", entry.path, bytes.len()))
}

fn signature(bytes: &[u8], what: &str, evidence: &Evidence, report: &mut Report) {
    let Some(certificate) = &evidence.database else {
        let words = format!("{what}: {}; no certificate was given to compare with", signer(bytes, evidence));
        return report.push(SECURE_BOOT, Outcome::NotChecked, words);
    };
    let subject = &certificate.tbs_certificate.subject;
    let verified = authenticode::verify(bytes, certificate).map_err(|error| format!("{what}: {}", chain(&error)));
    report.take(SECURE_BOOT, verified.map(|()| ((), format!("{what}: unchanged and signed by {subject}"))));
}

fn signer(bytes: &[u8], evidence: &Evidence) -> &'static str {
    match (authenticode::is_signed(bytes), &evidence.database) {
        (false, _) => "unsigned",
        (true, None) => "signed",
        (true, Some(certificate)) => match authenticode::verify(bytes, certificate) {
            Ok(()) => BY_THE_SAME,
            Err(_) => "signed, but not by this key",
        },
    }
}

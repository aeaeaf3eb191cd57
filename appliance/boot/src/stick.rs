//! The partition `RIG`, which the owner's computer shows: what stands there, and what the rig changes there.
//!
//! Invariants: it is mounted only while it is read or written, read-only for reading, and mended before it is written.
//! What a power cut leaves of a change of settings is either the old file or the new one; never both gone.
//!
//! ```text
//! 1 rig.toml.new   the new text, flushed
//! 2 rig.toml       overwritten with # in its place on the disk, flushed
//! 3                rig.toml.new becomes rig.toml
//! ```
//! A change that was cut off is first brought to its end, so that step 1 never writes over the only copy.
//!
//! Step 2 is for the secrets in the old text. It reaches the sectors that the stick shows; a flash chip may still keep an
//! older copy of them where only its maker's tools can read. Who cannot live with that writes no secret on a stick.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::disk::Disk;
use crate::exec::Call;
use crate::files::{self, Access};
use crate::places::{Places, Programs, on_stick};
use crate::text::FILE_BYTES_MAX;

/// The ending of a file that is about to take another's place.
const NEW: &str = ".new";

/// Time for mending the FAT of 64 MiB.
const MEND_TIME: Duration = Duration::from_secs(60);

/// What a disk writes whole or not at all, in bytes; some write more.
const SECTOR_BYTES: usize = 512;

/// The longest status that the rig wrote, in bytes.
const STATUS_BYTES_MAX: usize = 32 * 1024;

/// A settings file on the stick.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: &'static str,
    /// What it holds; one byte more than allowed if it is too long.
    pub bytes: Vec<u8>,
    /// Whether a change of it was cut off, and these are the new bytes.
    pub is_cut_off: bool,
}

/// What stands on the stick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The settings files, the best name first.
    pub settings: Vec<Settings>,
    /// What the rig wrote last.
    pub status: Option<Vec<u8>>,
}

/// A settings file's name, and what it is to hold.
pub type NewSettings = (&'static str, String);

/// What is changed on the stick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// A settings file and its new text.
    pub settings: Option<NewSettings>,
    /// What the rig says.
    pub status: Option<String>,
}

/// A stick that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StickError {
    /// There is no such partition.
    #[error("the disk has no partition RIG")]
    Absent,
    /// It cannot be mounted, read or written.
    #[error("{what} the partition RIG")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The mounted stick.
struct Mounted {
    at: PathBuf,
}

// === impl Settings ===

impl std::fmt::Debug for Settings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ({} bytes, not shown)", self.name, self.bytes.len())
    }
}

// === impl Mounted ===

impl Mounted {
    fn mount(places: &Places, disk: &Disk, can_write: bool) -> Result<Mounted, StickError> {
        let io = |source| StickError::Io { what: "mount", source };
        let name = disk.named(layout::parts::SETTINGS_LABEL).ok_or(StickError::Absent)?;
        let (device, at) = (places.device(&name), places.run().join("stick"));
        files::folder(&at, Access::root(0o700)).map_err(io)?;
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        if !can_write {
            flags |= MsFlags::MS_RDONLY;
        }
        // FAT knows no owners: all of it is root's.
        let options = (places.stick_kind == "vfat").then_some("uid=0,gid=0,fmask=0177,dmask=0077");
        mount(Some(&device), &at, Some(places.stick_kind.as_str()), flags, options)
            .map_err(|errno| io(errno.into()))?;
        Ok(Mounted { at })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Everything that was written was flushed where it was written.
        if umount2(&self.at, MntFlags::empty()).is_err() {
            let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir(&self.at);
    }
}

/// Looks at the stick. Errors: see [`StickError`].
pub fn look(places: &Places, disk: &Disk) -> Result<Seen, StickError> {
    let mounted = Mounted::mount(places, disk, false)?;
    look_in(&mounted.at).map_err(|source| StickError::Io { what: "read", source })
}

/// Changes the stick. Errors: see [`StickError`]; then nothing, or only the settings, may have been changed.
pub fn change(places: &Places, programs: &Programs, disk: &Disk, change: &Change) -> Result<(), StickError> {
    let name = disk.named(layout::parts::SETTINGS_LABEL).ok_or(StickError::Absent)?;
    let device = places.device(&name);
    // What it says is of no use to anybody: if the FAT is still bad, mounting or writing fails.
    let _ = Call::new(&programs.fsck_fat, ["-a".into(), device.into_os_string()], MEND_TIME).run();
    let mounted = Mounted::mount(places, disk, true)?;
    let io = |source| StickError::Io { what: "write to", source };
    if let Some((name, text)) = &change.settings {
        replace(&mounted.at, name, text, &mut |_| true).map_err(io)?;
    }
    if let Some(status) = &change.status {
        files::write(&mounted.at.join(on_stick::STATUS), status.as_bytes(), Access::root(0o600)).map_err(io)?;
    }
    Ok(())
}

/// What stands in `folder`.
fn look_in(folder: &Path) -> io::Result<Seen> {
    let mut settings = Vec::new();
    for name in [on_stick::SETTINGS, on_stick::SETTINGS_TXT] {
        let new = files::read(&folder.join(format!("{name}{NEW}")), FILE_BYTES_MAX + 1)?;
        let old = files::read(&folder.join(name), FILE_BYTES_MAX + 1)?;
        match (old, new) {
            (old, Some(bytes)) if old.as_deref().is_none_or(is_overwritten) => {
                settings.push(Settings { name, bytes, is_cut_off: true });
            }
            (Some(bytes), _) => settings.push(Settings { name, bytes, is_cut_off: false }),
            (None, _) => {}
        }
    }
    // Our own words are no reason to leave the owner's unread.
    let status = files::read(&folder.join(on_stick::STATUS), STATUS_BYTES_MAX).ok().flatten();
    Ok(Seen { settings, status })
}

/// The three steps of a change. `goes_on` is asked before each, and says no where a test cuts the power.
fn replace(folder: &Path, name: &str, text: &str, goes_on: &mut dyn FnMut(u32) -> bool) -> io::Result<()> {
    let (old, new) = (folder.join(name), folder.join(format!("{name}{NEW}")));
    if is_cut_off(&old, &new)? {
        fs::rename(&new, &old)?;
        files::sync_folder(&old)?;
    }
    if files::read(&old, FILE_BYTES_MAX + 1)?.as_deref() == Some(text.as_bytes()) {
        return Ok(());
    }
    if !goes_on(1) {
        return Ok(());
    }
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    files::sync_folder(&new)?;
    if !goes_on(2) {
        return Ok(());
    }
    overwrite(&old)?;
    if !goes_on(3) {
        return Ok(());
    }
    fs::rename(&new, &old)?;
    files::sync_folder(&old)
}

/// Puts a `#` over each byte of the file where it lies.
fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(FILE_BYTES_MAX);
    file.write_all(&vec![b'#'; length])?;
    file.sync_all()
}

/// Whether an earlier change ended between its steps 2 and 3.
fn is_cut_off(old: &Path, new: &Path) -> io::Result<bool> {
    let there = files::read(old, FILE_BYTES_MAX + 1)?;
    Ok(there.as_deref().is_none_or(is_overwritten) && files::read(new, 1)?.is_some())
}

/// Whether step 2 was at work here: then at least one whole sector holds nothing else, whichever was written first. A
/// line of # that an owner draws is shorter.
fn is_overwritten(bytes: &[u8]) -> bool {
    let is_drawn_over = |part: &[u8]| part.iter().all(|byte| *byte == b'#');
    is_drawn_over(bytes) || bytes.chunks_exact(SECTOR_BYTES).any(is_drawn_over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_at_any_step_leaves_the_old_settings_or_the_new_ones() {
        let (before, after) = ("[wifi]\npassword = \"hunter22\"\n", "[wifi]\n# taken\n");
        for cut in 1..=4 {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("rig.toml");
            fs::write(&path, before).expect("writes");
            replace(folder.path(), "rig.toml", after, &mut |step| step < cut).expect("writes");
            let seen = look_in(folder.path()).expect("reads").settings;
            let expected = if cut <= 2 { before } else { after };
            assert_eq!((seen.len(), seen[0].bytes.as_slice()), (1, expected.as_bytes()), "cut at {cut}");
            assert_eq!(seen[0].is_cut_off, cut == 3);
            // The next start does it again, from wherever it stands.
            replace(folder.path(), "rig.toml", after, &mut |_| true).expect("writes");
            assert_eq!(fs::read_to_string(&path).expect("reads"), after);
            assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 1);
        }
    }

    #[test]
    fn a_second_power_cut_does_not_take_the_only_copy() {
        for cut in 1..=4 {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join("rig.toml"), "# old\n").expect("writes");
            replace(folder.path(), "rig.toml", "# new\n", &mut |step| step < 3).expect("writes");
            // Somebody's third text, and the power goes again.
            replace(folder.path(), "rig.toml", "# third\n", &mut |step| step < cut).expect("writes");
            let seen = look_in(folder.path()).expect("reads").settings;
            let expected = if cut <= 2 { "# new\n" } else { "# third\n" };
            assert_eq!(seen[0].bytes, expected.as_bytes(), "cut at {cut}");
        }
    }

    #[test]
    fn a_text_that_was_drawn_over_is_told_from_one_that_is_decorated() {
        let sector = "#".repeat(SECTOR_BYTES);
        let check = |text: &str, expected: bool| assert_eq!(is_overwritten(text.as_bytes()), expected, "{text:.40}");
        check("", true);
        check("####", true);
        check(&"#".repeat(700), true);
        check(&(sector.clone() + "a = 1\n"), true);
        check(&("a = 1 ".repeat(100)[..SECTOR_BYTES].to_owned() + &sector), true);
        check("####################\n# My rig #\n####################\n", false);
        check(&("a = 1\n".to_owned() + &sector), false);
    }

    #[test]
    fn the_old_text_is_overwritten_where_it_lies() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rig.toml");
        fs::write(&path, "password = \"hunter22\"\n").expect("writes");
        let old = File::open(&path).expect("opens");
        replace(folder.path(), "rig.toml", "# taken\n", &mut |_| true).expect("writes");
        let left = io::read_to_string(old).expect("the old file is still open");
        assert_eq!(left, "#".repeat(22));
    }

    #[test]
    fn both_names_of_the_settings_are_seen_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(look_in(folder.path()).expect("reads"), Seen::default());
        for name in ["rig.toml.txt", "rig.toml", "rig.toml.bak", "rig-status.txt"] {
            fs::write(folder.path().join(name), name).expect("writes");
        }
        let seen = look_in(folder.path()).expect("reads");
        assert_eq!(seen.settings.iter().map(|one| one.name).collect::<Vec<_>>(), ["rig.toml", "rig.toml.txt"]);
        assert_eq!(seen.status.as_deref(), Some(&b"rig-status.txt"[..]));
        fs::write(folder.path().join("rig.toml"), vec![b'x'; 2 * FILE_BYTES_MAX]).expect("writes");
        let seen = look_in(folder.path()).expect("reads");
        assert_eq!(seen.settings[0].bytes.len(), FILE_BYTES_MAX + 1);
        fs::remove_file(folder.path().join("rig-status.txt")).expect("removes");
        fs::create_dir(folder.path().join("rig-status.txt")).expect("makes");
        assert_eq!(look_in(folder.path()).expect("reads").status, None);
        fs::remove_file(folder.path().join("rig.toml")).expect("removes");
        fs::create_dir(folder.path().join("rig.toml")).expect("makes");
        assert!(look_in(folder.path()).is_err());
    }
}

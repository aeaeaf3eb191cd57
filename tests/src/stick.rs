//! A stick with the image on it, as a file: what the owner's computer, an accident or an attacker does to it.
//!
//! Everything is found through the partition table on the stick. The file is as large as a small stick, and sparse.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use layout::gpt::Table;
use layout::parts::SETTINGS_LABEL;

/// What is sold as 4 GB, rounded down to whole MiB; the smallest stick that the image supports.
pub const SMALLEST_BYTES: u64 = 3_700 << 20;

/// A stick. Its file stays when this is dropped.
#[derive(Clone, Debug)]
pub struct Stick {
    path: PathBuf,
}

/// One partition's place on the stick, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub at: u64,
    /// How long it is.
    pub bytes: u64,
}

// === impl Stick ===

impl Stick {
    /// Writes `image` to a new stick of `bytes` at `path`, with holes where the image has none but zeros.
    pub fn write(image: &Path, path: &Path, bytes: u64) -> Result<Stick> {
        copy(image, path)?;
        let file = OpenOptions::new().write(true).open(path)?;
        let image_bytes = file.metadata()?.len();
        ensure!(image_bytes <= bytes, "the image has {image_bytes} bytes, the stick {bytes}");
        file.set_len(bytes)?;
        Ok(Stick { path: path.to_owned() })
    }

    /// A stick that was written before.
    pub fn open(path: &Path) -> Stick {
        Stick { path: path.to_owned() }
    }

    /// Another stick with the same on it.
    pub fn duplicate(&self, path: &Path) -> Result<Stick> {
        copy(&self.path, path)?;
        Ok(Stick { path: path.to_owned() })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the partition with `label` lies. Errors: there is none, or no table.
    pub fn place(&self, label: &str) -> Result<Place> {
        let table = Table::read(&mut File::open(&self.path)?)?;
        let partition = table.by_name(label).with_context(|| format!("the stick has no partition {label}"))?;
        let sector = u64::from(table.sector_bytes);
        Ok(Place { at: partition.first_sector * sector, bytes: partition.sectors * sector })
    }

    /// Puts a file on the partition that the owner's computer shows.
    pub fn put(&self, name: &str, text: &str) -> Result<()> {
        self.put_on(SETTINGS_LABEL, name, text.as_bytes())
    }

    /// Puts a file, such as `EFI/Linux/a.efi`, on the FAT partition with `label`.
    pub fn put_on(&self, label: &str, name: &str, bytes: &[u8]) -> Result<()> {
        let words = ["mcopy", "-n", "-o", "-i", &self.fat(label)?, "-", &format!("::/{name}")];
        mtools(&words, bytes).map(drop)
    }

    /// A file of the partition that the owner's computer shows.
    pub fn read(&self, name: &str) -> Result<String> {
        Ok(String::from_utf8(self.read_from(SETTINGS_LABEL, name)?)?)
    }

    /// A file of the FAT partition with `label`.
    pub fn read_from(&self, label: &str, name: &str) -> Result<Vec<u8>> {
        mtools(&["mtype", "-i", &self.fat(label)?, &format!("::/{name}")], &[])
    }

    /// Removes a file from the FAT partition with `label`.
    pub fn remove_from(&self, label: &str, name: &str) -> Result<()> {
        mtools(&["mdel", "-i", &self.fat(label)?, &format!("::/{name}")], &[]).map(drop)
    }

    /// The names in a folder of the FAT partition with `label`.
    pub fn list(&self, label: &str, folder: &str) -> Result<Vec<String>> {
        let told = mtools(&["mdir", "-b", "-i", &self.fat(label)?, &format!("::/{folder}")], &[])?;
        let names = String::from_utf8(told)?;
        Ok(names.lines().filter_map(|line| line.trim().rsplit('/').next()).map(str::to_owned).collect())
    }

    /// Bytes at an offset of the stick.
    pub fn bytes(&self, at: u64, count: usize) -> Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = vec![0; count];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes bytes at an offset of the stick.
    pub fn overwrite(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(file.write_all(bytes)?)
    }

    /// Turns one bit around.
    pub fn flip(&self, at: u64) -> Result<()> {
        let byte = self.bytes(at, 1)?[0];
        self.overwrite(at, &[byte ^ 1])
    }

    /// A FAT partition as mtools names it.
    fn fat(&self, label: &str) -> Result<String> {
        Ok(format!("{}@@{}", self.path.display(), self.place(label)?.at))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["--sparse=always", "--reflink=auto", "--"]).arg(from).arg(to);
    let done = command.status()?;
    ensure!(done.success(), "copy {} to {}", from.display(), to.display());
    Ok(())
}

fn mtools(words: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        // A stick's geometry is of no interest to anybody any more.
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}; tests/setup.sh installs mtools", words[0]))?;
    let mut pipe = child.stdin.take().context("its input")?;
    let input = input.to_owned();
    let writer = std::thread::spawn(move || pipe.write_all(&input));
    let output = child.wait_with_output()?;
    // A tool that does not want its input closes it; what it says is what counts.
    let _ = writer.join();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {said}", words.join(" "));
    Ok(output.stdout)
}

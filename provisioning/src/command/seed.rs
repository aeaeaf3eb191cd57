//! `rig seed`: the settings on a stick, shown and changed.
//!
//! Also the arguments that `rig flash` shares with it: what is to be in `rig.toml`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use clap::Args;
use layout::fat::FatError;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::flash::form;
use crate::flash::settings::{self, Assignment, Checked, Hidden, WifiWish, WishError, Wishes};
use crate::flash::stick::{Stick, StickError};
use crate::flash::target::{Target, TargetError};
use crate::network::{self, NetworkError};
use crate::screen::{Screen, harmless};
use crate::{parse, person};

/// A file with a password or a token holds one line.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// The longest rig.toml that is taken from a file: what a rig reads.
const SETTINGS_FILE_BYTES_MAX: u64 = 64 << 10;

/// Show or change the settings on a rig's stick.
///
/// DISK is the stick, such as /dev/sdb, or a file that stands for one. Without any setting it shows what is there, and
/// what the rig wrote about itself; passwords and tokens are not shown. Otherwise it changes those settings in rig.toml
/// and leaves everything else there as it is, comments included.
///
/// The same can be done with any text editor: the partition RIG is a plain FAT volume.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig seed /dev/sdb
  rig seed /dev/sdb --owner 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 --name attic
  rig seed /dev/sdb --wifi 'Upstairs' --country DE --wifi-password-file wifi.txt
  rig seed rig.img --network testnet --set work.max_runs=8

Reading and writing a disk needs root: sudo rig seed …")]
pub(crate) struct Seed {
    /// The stick, or a file that stands for one.
    #[arg(value_name = "DISK|FILE")]
    disk: PathBuf,
    /// Show what is there, even if something is changed.
    #[arg(long)]
    show: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What is to be in rig.toml.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings of the rig")]
pub(crate) struct SettingsArgs {
    /// Who is paid: the owner's address. With capital letters in it, its checksum must be right.
    #[arg(long, value_name = "0x…", value_parser = parse::address)]
    owner: Option<Address>,
    /// What people call the rig: letters, digits and hyphens, at most 32.
    #[arg(long, value_name = "NAME", value_parser = settings::rig_name)]
    name: Option<String>,
    /// Join this wireless network. Its password is asked for, or read from a file.
    #[arg(long, value_name = "SSID", value_parser = ssid)]
    wifi: Option<String>,
    /// A file with the password of the wireless network, in one line.
    #[arg(long, value_name = "FILE", requires = "wifi", conflicts_with = "wifi_open")]
    wifi_password_file: Option<PathBuf>,
    /// The wireless network has no password.
    #[arg(long, requires = "wifi")]
    wifi_open: bool,
    /// The wireless network does not say its name.
    #[arg(long, requires = "wifi")]
    wifi_hidden: bool,
    /// The country the rig is in, whose radio rules it keeps: two letters, such as DE.
    #[arg(long, value_name = "CC", value_parser = form::country)]
    country: Option<String>,
    /// `mainnet`, `testnet`, a TOML file with the tables [network] and [content], or what `rig devnet up --json` printed.
    #[arg(long, value_name = "NAME|FILE")]
    network: Option<String>,
    /// A file with the fleet's join token, in one line.
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// Any other setting, such as work.max_runs=8. May be repeated.
    #[arg(long, value_name = "TABLE.KEY=VALUE", value_parser = Assignment::parse)]
    set: Vec<Assignment>,
    /// A whole rig.toml to begin with, in place of the one on the stick.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Do not ask the network whether it is there and is the right one.
    #[arg(long)]
    no_reach: bool,
}

/// What is asked of rig.toml, with its secrets read.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) base: Option<String>,
    pub(crate) wishes: Wishes,
    reach: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    disk: PathBuf,
    changed: bool,
    settings: Vec<(String, String)>,
    status: Option<String>,
}

// === impl Seed ===

impl Seed {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let wanted = self.settings.read()?;
        let is_change = !wanted.is_empty();
        let mut target = if is_change { Target::existing(&self.disk)? } else { Target::reading(&self.disk)? };
        let mut stick = Stick::find(&mut target)?;
        let before = stick.settings()?;
        let mut text = Zeroizing::new(before.clone());
        if is_change {
            let checked = wanted.checked(&before)?;
            wanted.reach(&checked, screen).await?;
            remark(&checked, screen);
            if *checked.text != before {
                stick.write_settings(&checked.text)?;
            }
            text = checked.text;
        }
        let status = if is_change && !self.show { None } else { stick.status()? };
        let answer =
            Answer { disk: self.disk.clone(), changed: *text != before, settings: settings::shown(&text)?, status };
        screen.answer(&answer, || answer.describe(is_change && !self.show));
        Ok(())
    }
}

// === impl Answer ===

impl Answer {
    fn describe(&self, is_brief: bool) -> String {
        let disk = self.disk.display();
        let done = match self.changed {
            true => format!("rig.toml on {disk} is written and was read back."),
            false => format!("rig.toml on {disk} is unchanged."),
        };
        if is_brief {
            return done;
        }
        let mut lines = vec![if self.changed { done } else { format!("rig.toml on {disk}:") }];
        lines.extend(self.settings.iter().map(|(key, value)| format!("  {} = {}", harmless(key), harmless(value))));
        match &self.status {
            Some(status) => {
                lines.push("What the rig wrote (rig-status.txt):".to_owned());
                lines.extend(status.lines().map(|line| format!("  {}", harmless(line))));
            }
            None => lines.push("No rig has started from it yet (there is no rig-status.txt).".to_owned()),
        }
        lines.join("\n")
    }
}

// === impl SettingsArgs ===

impl SettingsArgs {
    /// Reads the files that are named, and asks for a password where one is missing.
    pub(crate) fn read(&self) -> Result<Wanted, Failure> {
        let wifi = match &self.wifi {
            Some(network) => Some(WifiWish {
                network: network.clone(),
                password: self.password(network)?,
                is_hidden: self.wifi_hidden,
            }),
            None => None,
        };
        let wishes = Wishes {
            owner: self.owner,
            name: self.name.clone(),
            wifi,
            country: self.country.clone(),
            network: self.network.as_deref().map(network::written).transpose()?,
            join_token: self.join_token_file.as_deref().map(token).transpose()?,
            set: self.set.clone(),
        };
        let base = match &self.settings {
            Some(path) => {
                let bytes = bounded(path, SETTINGS_FILE_BYTES_MAX)?;
                let text = boot::text::of(&bytes);
                Some(text.map_err(|error| unusable(path, error.to_string()))?.to_owned())
            }
            None => None,
        };
        Ok(Wanted { base, wishes, reach: !self.no_reach })
    }

    fn password(&self, network: &str) -> Result<Option<Hidden>, Failure> {
        if self.wifi_open {
            return Ok(None);
        }
        if let Some(path) = &self.wifi_password_file {
            let line = secret_line(path)?;
            return form::wifi_password(line.as_bytes()).map(Some).map_err(|why| unusable(path, why));
        }
        if !person::is_there() {
            let failure = Failure::new(Exit::Usage, format!("the password of {network:?} is missing"));
            return Err(failure.next("name a file with it: --wifi-password-file FILE; or say --wifi-open"));
        }
        form::password(network).map_err(|error| Failure::new(Exit::Failed, error))
    }
}

// === impl Wanted ===

impl Wanted {
    pub(crate) fn is_empty(&self) -> bool {
        self.base.is_none() && self.wishes.is_empty()
    }

    /// The text for a stick that holds `before`.
    pub(crate) fn checked(&self, before: &str) -> Result<Checked, WishError> {
        let text = self.wishes.laid_over(self.base.as_deref().unwrap_or(before))?;
        settings::checked(text)
    }

    /// Asks the network whether it is there. One that does not answer is worth a word: the rig may stand elsewhere. One
    /// that is another chain is an error.
    pub(crate) async fn reach(&self, checked: &Checked, screen: Screen) -> Result<(), Failure> {
        let Some(settings) = checked.network.as_ref().filter(|_| self.reach) else { return Ok(()) };
        let waiting = screen.wait("asking the network's endpoints");
        let reached = settings.connect().await;
        drop(waiting);
        match reached {
            Ok(_) => Ok(()),
            Err(error @ NetworkError::Unreachable { .. }) => {
                screen.note(&format!("Warning: {error}. The rig will ask again by itself from where it stands."));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Says what a rig with these settings will not do yet.
pub(crate) fn remark(checked: &Checked, screen: Screen) {
    if checked.owner.is_none() {
        screen.note("No owner yet: the rig starts, shows itself, and earns once owner.address is in rig.toml.");
    }
}

fn ssid(text: &str) -> Result<String, String> {
    match text.len() {
        1..=32 if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err("a Wi-Fi network's name has 1 to 32 bytes and no control signs".to_owned()),
    }
}

fn token(path: &Path) -> Result<Hidden, Failure> {
    let line = secret_line(path)?;
    match !line.is_empty() && line.len() <= 256 && line.bytes().all(|sign| sign.is_ascii_graphic()) {
        true => Ok(Hidden(line)),
        false => Err(unusable(path, "a join token is one word of at most 256 signs".to_owned())),
    }
}

/// The one line of a file, without its end.
fn secret_line(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bytes = Zeroizing::new(bounded(path, SECRET_FILE_BYTES_MAX)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable(path, "it is not UTF-8".to_owned()))?;
    let line = text.trim_end_matches(['\r', '\n']);
    match line.contains(['\r', '\n']) {
        true => Err(unusable(path, "it has more than one line".to_owned())),
        false => Ok(Zeroizing::new(line.to_owned())),
    }
}

fn bounded(path: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(Failure::new(Exit::Usage, format!("read {}: {error}", path.display()))),
        Ok(_) if u64::try_from(bytes.len()).is_ok_and(|length| length > max) => {
            Err(unusable(path, format!("it has more than {max} bytes")))
        }
        Ok(_) => Ok(bytes),
    }
}

fn unusable(path: &Path, why: String) -> Failure {
    Failure::new(Exit::Usage, format!("{}: {why}", path.display()))
}

impl From<WishError> for Failure {
    fn from(error: WishError) -> Failure {
        Failure::new(Exit::Usage, error).next("correct it and try again; the stick was not changed")
    }
}

impl From<StickError> for Failure {
    fn from(error: StickError) -> Failure {
        let next = match &error {
            StickError::Table(_) | StickError::Partition => "name the stick's whole disk, or write it with: rig flash",
            StickError::Text(_) | StickError::Long(_) => "begin anew with --settings FILE",
            StickError::Fat(FatError::Damaged { .. }) => {
                "repair it (fsck.vfat, or Windows' own check), or flash the stick again"
            }
            StickError::Differs | StickError::Fat(_) => "use another stick if it happens again",
            StickError::Target(_) => return target_failure(error),
        };
        Failure::new(Exit::Failed, error).next(next)
    }
}

fn target_failure(error: StickError) -> Failure {
    match error {
        StickError::Target(error) => error.into(),
        other => Failure::new(Exit::Failed, other),
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        let (exit, next) = match &error {
            TargetError::Root(_) => (Exit::Usage, "repeat it as root: sudo rig …"),
            TargetError::Busy(_) => (Exit::Usage, "unmount it (umount /dev/sdX*), and close what has it open"),
            TargetError::Open { .. } | TargetError::Kind(_) => (Exit::Usage, "rig flash --list shows the disks"),
            TargetError::Gone(_) => (Exit::Failed, "plug it in again, another way if you can, and repeat the command"),
            TargetError::Full { .. } => (Exit::Failed, "use a larger disk, or make room for the file"),
            TargetError::Medium { .. } => {
                (Exit::Failed, "try another port or reader; if it happens again the stick is broken: use another")
            }
        };
        Failure::new(exit, error).next(next)
    }
}

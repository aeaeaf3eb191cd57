//! `rig image keys`: the vendor's keys.

use std::path::PathBuf;

use clap::Args;
use image::keys::{Keys, KeysError, PublicKeys, certificate};
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::screen::Screen;

/// A foreign certificate is a page of text at most.
const ALSO_MAX: usize = 16;

/// Make the keys that releases are signed with.
///
/// Makes PK, KEK and db for Secure Boot, the key for kernel modules, the key for PCR 11, the release key and the approval
/// key, each a file that only you can read, and the files with which a firmware takes the first three. Never overwrites
/// a key.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  rig image keys /media/vault/rig-keys

Which keys belong where:
  off-line, on two media in two places, never on the machine that builds
    PK.key        owns the firmware's key store; needed to replace KEK
    KEK.key       needed to change which signatures firmware accepts, and to revoke db or module
    approval.key  says which measured software may open a rig's identity (rig-signer --vendor takes approval.pub)
  on the machine that builds, and nowhere else
    db.key        signs loader and kernel image
    module.key    signs kernel modules; firmware would accept a loader that it signed, so guard it like db.key
    pcr.key       signs what PCR 11 may hold
    release.key   signs manifests; release.pub is what a buyer checks a stick against, so publish it widely
  public
    *.crt, *.pub, *.esl, *.auth

Move the off-line files away before the first build: a build does not look for them. The files have no passphrase, so
keep them on an encrypted disk. Lost keys cannot be made again: rigs that enrolled them take no other release.

Firmware with these keys alone starts nothing that others signed. The firmware of many graphics and network cards is
signed by a certificate of Microsoft's; without it such a card shows no picture until the system runs, and some boards
refuse to start. Add that certificate with --also if your boards need it, and try one board before you do many.")]
pub(crate) struct MakeKeys {
    /// The folder to make; it may be there if it is empty.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// A certificate, PEM or DER, whose signatures firmware shall accept too; may be repeated.
    #[arg(long, value_name = "CERTIFICATE")]
    also: Vec<PathBuf>,
}

// === impl MakeKeys ===

impl MakeKeys {
    pub(crate) fn run(&self, screen: Screen) -> Result<(), Failure> {
        if self.also.len() > ALSO_MAX {
            return Err(Failure::new(Exit::Usage, format!("--also is there for {ALSO_MAX} certificates at most")));
        }
        let also = self.also.iter().map(|path| {
            let file = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
            file.and_then(|file| certificate(&file).map_err(|error| format!("{}: {error}", path.display())))
        });
        let also: Vec<_> = also.collect::<Result<_, _>>().map_err(|words| Failure::new(Exit::Usage, words))?;
        let waiting = screen.wait("Making keys");
        let made = Keys::make(&self.directory, &also);
        drop(waiting);
        let PublicKeys { release, approval } = made.map_err(failure)?;
        let answer = json!({"directory": self.directory, "release": release, "approval": approval});
        screen.answer(&answer, || {
            format!(
                "The keys are in {}.\n\n  release key   {release}\n  approval key  {approval}\n\n\
                 Publish the release key. Copy the folder to two places, then take PK.key, KEK.key and approval.key \
                 off this machine.",
                self.directory.display()
            )
        });
        Ok(())
    }
}

/// How a failure with keys ends the command.
pub(super) fn failure(error: KeysError) -> Failure {
    match error {
        KeysError::File { .. } => Failure::new(Exit::Failed, error),
        KeysError::Exists { .. }
        | KeysError::Open { .. }
        | KeysError::TooLong { .. }
        | KeysError::Pair { .. }
        | KeysError::Curve { .. } => Failure::new(Exit::Usage, error),
    }
}

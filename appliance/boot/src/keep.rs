//! What the rig keeps of the owner's settings: the last right ones, and the secrets that it took from the stick.
//!
//! ```text
//! /var/lib/rig/config/rig.toml     the last right settings, without secrets
//! /var/lib/rig/secrets/wifi.toml   network = "…", password = "…"
//! /var/lib/rig/secrets/join-token  one line
//! ```
//! Everything here is root's alone.

use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, value};

use crate::files::{self, Access};
use crate::secret::Secret;
use crate::sections::{Sections, Wifi};
use crate::text::{self, FILE_BYTES_MAX};

/// Nobody else's.
const OURS: Access = Access::root(0o600);

/// The folders of a state that hold this.
#[derive(Clone, Debug)]
pub struct Kept {
    state: PathBuf,
}

// === impl Kept ===

impl Kept {
    /// In the state that is mounted at `state`.
    #[must_use]
    pub fn in_state(state: &Path) -> Kept {
        Kept { state: state.to_owned() }
    }

    fn settings_path(&self) -> PathBuf {
        self.state.join("config/rig.toml")
    }

    fn wifi_path(&self) -> PathBuf {
        self.state.join("secrets/wifi.toml")
    }

    /// The last right settings; `None` if there are none that can be read.
    #[must_use]
    pub fn settings(&self) -> Option<String> {
        let bytes = files::read(&self.settings_path(), FILE_BYTES_MAX + 1).ok()??;
        text::of(&bytes).ok().map(str::to_owned)
    }

    /// Keeps settings that are right. Errors: what the system said; then the ones before are kept.
    pub fn keep_settings(&self, text: &str) -> io::Result<()> {
        files::write_if_other(&self.settings_path(), text.as_bytes(), OURS).map(drop)
    }

    /// Keeps the secrets in `sections`, and forgets none. Errors: what the system said; then the stick keeps them.
    pub fn keep_secrets(&self, sections: &Sections) -> io::Result<()> {
        if let Some((wifi, password)) = sections.wifi.as_ref().and_then(|wifi| Some((wifi, wifi.password.as_ref()?))) {
            let mut document = DocumentMut::new();
            document.insert("network", value(wifi.network.as_str()));
            document.insert("password", value(password.reveal()));
            files::write_if_other(&self.wifi_path(), Secret::new(document.to_string()).reveal().as_bytes(), OURS)?;
        }
        if let Some(token) = sections.fleet.as_ref().and_then(|fleet| fleet.join_token.as_ref()) {
            files::write_if_other(&self.state.join("secrets/join-token"), token.reveal().as_bytes(), OURS)?;
        }
        Ok(())
    }

    /// The password that is kept for the network of `wifi`.
    #[must_use]
    pub fn password(&self, wifi: &Wifi) -> Option<Secret> {
        let bytes = files::read(&self.wifi_path(), FILE_BYTES_MAX).ok()??;
        let kept: toml::Table = std::str::from_utf8(&bytes).ok()?.parse().ok()?;
        let text = |key: &str| kept.get(key).and_then(toml::Value::as_str);
        let password = text("password").filter(|_| text("network") == Some(wifi.network.as_str()))?;
        Some(Secret::new(password.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_kept_for_its_network_and_is_nobody_elses_to_read() {
        let state = tempfile::tempdir().expect("a folder");
        for folder in ["config", "secrets"] {
            std::fs::create_dir(state.path().join(folder)).expect("makes");
        }
        let kept = Kept::in_state(state.path());
        assert!(kept.settings().is_none());
        kept.keep_settings("a = 1\n").expect("keeps");
        assert_eq!(kept.settings().as_deref(), Some("a = 1\n"));
        let sections = |text: &str| crate::judge::sections(text).expect(text);
        let home = sections(
            "wifi = { network = \"ho\\\"me\", password = \"pass\\\\word\", country = \"DE\" }\nfleet.join_token = \"t0k3n\"\n",
        );
        let wifi = home.wifi.clone().expect("is there");
        assert!(kept.password(&wifi).is_none());
        kept.keep_secrets(&home).expect("keeps");
        kept.keep_secrets(&Sections::default()).expect("forgets nothing");
        assert_eq!(kept.password(&wifi).expect("is kept").reveal(), "pass\\word");
        let other = Wifi { network: "elsewhere".into(), ..wifi };
        assert!(kept.password(&other).is_none());
        use std::os::unix::fs::MetadataExt;
        for path in ["config/rig.toml", "secrets/wifi.toml", "secrets/join-token"] {
            let mode = std::fs::metadata(state.path().join(path)).expect("is there").mode();
            assert_eq!(mode & 0o777, 0o600, "{path}");
        }
        assert!(!["t0k3n", "word\""].iter().any(|secret| format!("{home:?}").contains(secret)));
    }
}

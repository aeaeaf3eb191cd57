//! The whole boot of a rig, once, in order: the disk, the stick, the state, the settings, the files that everybody else
//! starts with, and what is said of it all.
//!
//! Invariants: nothing here ends the boot. Whatever is wrong becomes a notice, and what depends on it is left out: without
//! a state, or without right settings, there is no `/run/rig/config/rig.toml`, and nothing that earns is started.

use std::fs;
use std::io::{self, ErrorKind};
use std::time::Duration;

use layout::Guid;

use crate::disk::{self, Disk};
use crate::effective::effective;
use crate::exec::{Call, chain};
use crate::files::{self, Access};
use crate::judge::{Judged, judge, sections};
use crate::keep::Kept;
use crate::network;
use crate::notices;
use crate::places::{Places, Programs, RIG_GID, on_stick};
use crate::plan::{Facts, Partition, erase_word};
use crate::policy::signer_toml;
use crate::report::{OURS, Report};
use crate::sections::Sections;
use crate::state::{self, Settled};
use crate::stick::{self, NewSettings, Seen};
use crate::text;
use crate::wipe::{wiped, without_word};

/// Time that the provider has to check settings. From a slow stick it has to be read first.
const CHECK_TIME: Duration = Duration::from_secs(60);

/// What the services may read of their settings.
const FOR_SERVICES: Access = Access { uid: 0, gid: RIG_GID, mode: 0o640 };

/// Their folder.
const CONFIG: Access = Access { uid: 0, gid: RIG_GID, mode: 0o750 };

/// Everybody on the rig may read it.
const FOR_ALL: Access = Access::root(0o644);

/// What to do about settings that do not hold.
const EDIT: &str = "Switch the rig off, open the drive RIG on any computer, correct rig.toml, and start the rig again.";

/// The owner's file as it stands on the stick.
struct Found {
    name: &'static str,
    text: String,
    judged: Judged,
    is_cut_off: bool,
}

/// What the stick says.
enum Said {
    /// It cannot be read, which is a notice of its own.
    Unread,
    /// It has no settings.
    Nothing,
    /// It has.
    Settings(Found),
}

// === impl Said ===

impl Said {
    fn found(&self) -> Option<&Found> {
        match self {
            Said::Settings(found) => Some(found),
            Said::Unread | Said::Nothing => None,
        }
    }
}

/// Settles one start. Errors: not even the notices could be written.
pub fn settle(places: &Places, programs: &Programs) -> io::Result<Report> {
    let version = files::fact(&places.boot_fact("version")).unwrap_or_else(|| "of unknown version".to_owned());
    let mut report = Report { version, ..Report::default() };
    let disk = Disk::find(places);
    let seen = match disk.as_ref().map(|disk| stick::look(places, disk)) {
        Ok(Ok(seen)) => Some(seen),
        Ok(Err(error)) => {
            let next = "Make the stick anew, or use another one.";
            report.said("stick", "The drive RIG on the stick cannot be read.", &chain(&error), next);
            None
        }
        // The state says it.
        Err(_) => None,
    };
    let said = match &seen {
        Some(seen) => find(places, programs, seen, &mut report).map_or(Said::Nothing, Said::Settings),
        None => Said::Unread,
    };
    let found = said.found();
    let written = found.and_then(|found| sections(&found.text).ok());
    let mut erased = false;
    let kept = match &disk {
        Ok(disk) => settle_state(places, programs, disk, written.as_ref(), &mut erased, &mut report),
        Err(error) => {
            report.state = "none".to_owned();
            let next = "Restart the machine. If it happens again, make the stick anew.";
            report.said("state", "The rig's own disk was not found. Nothing is earned.", &chain(error), next);
            None
        }
    };
    let (in_force, left) = settings_in_force(&said, kept.as_ref(), erased, &mut report);
    let in_force = in_force.filter(|text| {
        let served = serve(places, programs, text);
        if let Err(why) = &served {
            report.said("rig-toml", "The kept settings do not hold with this release. Nothing is earned.", why, EDIT);
        }
        served.is_ok()
    });
    if in_force.is_none() {
        unserve(places)?;
    }
    let lan = in_force.as_deref().and_then(|text| sections(text).ok()).or(written).unwrap_or_default();
    let name = in_force.as_deref().or(found.map(|found| found.text.as_str())).and_then(name_in);
    settle_network(places, &lan, name.as_deref(), kept.as_ref(), &mut report)?;
    if let (Ok(disk), Some(seen)) = (&disk, &seen) {
        settle_stick(places, programs, disk, seen, left, &mut report);
    }
    notices::write(&places.run().join("notices"), &OURS, &report.notices)?;
    Ok(report)
}

/// The owner's file: the first by name, or the second where the first is only a template.
fn find(places: &Places, programs: &Programs, seen: &Seen, report: &mut Report) -> Option<Found> {
    let mut all = seen.settings.iter().map(|one| {
        let (text, judged) = match text::of(&one.bytes) {
            Ok(text) => (text.to_owned(), judge(text, || check(places, programs, text))),
            Err(error) => (String::new(), Judged::Wrong(error.to_string())),
        };
        Found { name: one.name, text, judged, is_cut_off: one.is_cut_off }
    });
    let first = all.next()?;
    let found = if first.judged == Judged::Waiting { all.next().unwrap_or(first) } else { first };
    if found.name == on_stick::SETTINGS_TXT {
        let next = "The rig reads it. Rename it to rig.toml, without .txt, when you next have the stick at hand.";
        report.notice("stick", "The settings on the stick are called rig.toml.txt.", next);
    }
    Some(found)
}

/// Asks the provider. Errors: its words.
fn check(places: &Places, programs: &Programs, text: &str) -> Result<(), String> {
    let folder = places.run().join("check");
    let words = |error: &dyn std::error::Error| format!("the settings could not be checked: {}", chain(error));
    files::folder(&folder, Access::root(0o700)).map_err(|error| words(&error))?;
    let asked = files::write(&folder.join("rig.toml"), text.as_bytes(), Access::root(0o600)).map_err(|e| words(&e));
    let asked = asked.and_then(|()| {
        let call = Call::new(&programs.provider, ["--check", "--config", "rig.toml"], CHECK_TIME).within(&folder);
        call.run().map_err(|error| words(&error))
    });
    // It may hold secrets; it lies in memory only, and nobody else reads the folder.
    let _ = fs::remove_dir_all(&folder);
    match asked? {
        ended if ended.code == 0 => Ok(()),
        ended => Err(ended.said().trim_start_matches("rig-provider: ").to_owned()),
    }
}

/// Makes, opens or refuses the state. `None`: there is none to use, and the report says why.
fn settle_state(
    places: &Places,
    programs: &Programs,
    disk: &Disk,
    written: Option<&Sections>,
    erased: &mut bool,
    report: &mut Report,
) -> Option<Kept> {
    let word = disk.state_id().map(erase_word);
    let wish = written.and_then(|sections| sections.state.as_ref()?.erase.as_deref());
    let is_erase_wished = wish.is_some() && wish == word.as_deref();
    if wish.is_some() && !is_erase_wished {
        let next = "Take the line `erase` out of rig.toml. To erase the state that is there, write the word that a notice \
                    about it shows.";
        report.notice("erase", "rig.toml asks to erase a state that is not there. Nothing was erased.", next);
    }
    // A partition that cannot be read is not one to be made anew.
    let partition = disk.state(places).unwrap_or(Partition::There(crate::plan::Content::Foreign));
    let facts = Facts {
        partition,
        has_tpm: disk::tpm_answers(&places.tpm()),
        is_erase_wished,
        is_read_only: disk.is_read_only(places),
        room_bytes: disk.room_bytes(),
    };
    let settled = new_id(places, wish)
        .ok_or_else(|| state::Unusable { trouble: crate::plan::Trouble::Failed, said: "no machine id".to_owned() })
        .and_then(|id| state::settle(places, programs, facts.plan(), id));
    match settled {
        Ok(settled) => {
            *erased = is_erase_wished;
            let is_late = settled.is_new && !facts.has_tpm && places.known_tpm().exists();
            let word = Disk::find(places).ok().and_then(|disk| disk.state_id()).map(erase_word);
            say_seal(&settled, is_late, word.as_deref().unwrap_or_default(), report);
            say_state(&settled, report);
            Some(Kept::in_state(&places.state()))
        }
        Err(unusable) => {
            report.state = "none".to_owned();
            // It may have been made a moment ago, and have got its word then.
            let disk = Disk::find(places).ok();
            let now = disk.as_ref().and_then(Disk::state_id).map(erase_word);
            // The old one is gone even so, and its word is for nothing else.
            *erased = is_erase_wished && disk.is_some() && now != word;
            let (what, next) = (unusable.trouble.what(), unusable.trouble.next(now.as_deref()));
            report.said("state", what, &unusable.said, &next);
            None
        }
    }
}

/// What is said of a new state that is not sealed although there is a TPM. Later starts say it in the state's own line.
fn say_seal(settled: &Settled, is_late: bool, word: &str, report: &mut Report) {
    let again = format!(
        "It is not encrypted: whoever takes the stick can read it. To try the TPM again, start anew before the rig is \
         paired: write into rig.toml on the stick, and restart:\n[state]\nerase = \"{word}\""
    );
    if let Some(said) = &settled.unsealed {
        let what = "The TPM did not open what it had just sealed: the rig's state was made without it.";
        report.said("seal", what, said, &format!("Look for an update of the machine's firmware. {again}"));
    } else if is_late {
        let what = "This machine's TPM did not answer: the rig's state was made without it.";
        report.notice("seal", what, again);
    }
}

fn say_state(settled: &Settled, report: &mut Report) {
    let sealed = match settled.is_sealed {
        true => "sealed to this machine's TPM",
        false => "not encrypted: it was made without a TPM",
    };
    report.state = format!("{sealed}{}", if settled.is_new { ", new" } else { "" });
    if settled.is_mended {
        let next = "Something may be lost. If it happens again, the stick wears out: use another one.";
        report.notice("state", "The rig's state was damaged, and was mended at this start.", next);
    } else if settled.is_full {
        let next = "Less than 64 MiB are free. Use a bigger disk, or allow fewer sources.";
        report.notice("state", "The rig's state is nearly full.", next);
    }
}

/// What a new state is called: this start's machine id, so that the machine keeps it; another one where the owner's file
/// has the word that would erase that, so that it erases nothing again. The file keeps the word if the power was cut.
fn new_id(places: &Places, wish: Option<&str>) -> Option<Guid> {
    let parsed = |text: String| {
        let digits = text.replace('-', "");
        let number = u128::from_str_radix(&digits, 16).ok().filter(|number| digits.len() == 32 && *number != 0);
        number.map(Guid::from_u128)
    };
    let own = files::fact(&places.boot_fact("machine-id")).or_else(|| files::fact(&places.machine_id()));
    match own.and_then(parsed) {
        Some(id) if wish == Some(erase_word(id).as_str()) => files::fact(&places.random_id()).and_then(parsed),
        id => id,
    }
}

/// The settings that hold, without secrets, and the new text of the stick's file if that changes.
fn settings_in_force(
    said: &Said,
    kept: Option<&Kept>,
    erased: bool,
    report: &mut Report,
) -> (Option<String>, Option<NewSettings>) {
    let last = || kept.and_then(Kept::settings);
    let effect = |is_there: bool| if is_there { "The last right settings hold." } else { "Nothing is earned." };
    let hold = |is_there: bool| if is_there { "the last right ones hold" } else { "none, nothing is earned" };
    let found = match said {
        Said::Settings(found) => found,
        Said::Unread => {
            let last = last();
            report.settings = format!("not read: {}", hold(last.is_some()));
            return (last, None);
        }
        Said::Nothing => {
            let last = last();
            report.settings = format!("no rig.toml on the stick: {}", hold(last.is_some()));
            let next = format!("{}\n{EDIT}", effect(last.is_some()));
            report.notice("rig-toml", "There is no rig.toml on the stick.", next);
            return (last, None);
        }
    };
    // The word was for the start that erased: left there, every later one says that nothing was erased.
    let done = || erased.then(|| without_word(&found.text).ok().filter(|done| !done.taken.is_empty())).flatten();
    let unchanged = || found.is_cut_off.then(|| found.text.clone());
    let again = || done().map(|done| done.text).or_else(unchanged).map(|text| (found.name, text));
    match (&found.judged, kept) {
        (Judged::Right, Some(kept)) => match take(found, kept, erased) {
            Ok((text, left)) => {
                report.settings = "in force".to_owned();
                (Some(text), left.or_else(again))
            }
            Err(why) => {
                report.settings = "right, but they could not be kept; they are in force".to_owned();
                report.said(
                    "stick",
                    "The secrets in rig.toml stay on the stick.",
                    &why,
                    "Restart the rig to try again.",
                );
                (Some(found.text.clone()), again())
            }
        },
        (Judged::Right, None) => {
            report.settings = "right, and waiting for a state".to_owned();
            (None, again())
        }
        (Judged::Waiting, _) => {
            let last = last();
            report.settings = format!("waiting for an owner: {}", hold(last.is_some()));
            let next = "Switch the rig off, open the drive RIG on any computer, write your address into rig.toml, and \
                        start the rig again.";
            report.notice("rig-toml", "This rig waits for an owner.", next);
            (last, again())
        }
        (Judged::Wrong(why), _) => {
            let last = last();
            report.settings = format!("rig.toml is wrong: {}", hold(last.is_some()));
            let what = format!("rig.toml cannot be used. {}", effect(last.is_some()));
            report.said("rig-toml", &what, why, EDIT);
            (last, again())
        }
    }
}

/// Takes the secrets of right settings into the state. Errors: why the stick has to keep them.
fn take(found: &Found, kept: &Kept, erased: bool) -> Result<(String, Option<NewSettings>), String> {
    let done = wiped(&found.text, erased)?;
    let all = sections(&found.text)?;
    kept.keep_secrets(&all).and_then(|()| kept.keep_settings(&done.text)).map_err(|error| error.to_string())?;
    let left = (!done.taken.is_empty()).then(|| (found.name, done.text.clone()));
    Ok((done.text, left))
}

/// Writes what the signer and the provider start with. Errors: why these settings cannot be served.
fn serve(places: &Places, programs: &Programs, text: &str) -> Result<(), String> {
    let key = sections(text)?.key.unwrap_or_default();
    let policy = signer_toml(text, key)?;
    // What is in force holds no secret, even where the state could not take them.
    let settings = effective(&wiped(text, true)?.text)?;
    check(places, programs, &settings)?;
    let folder = places.run().join("config");
    let write = |name: &str, text: &str| files::write(&folder.join(name), text.as_bytes(), FOR_SERVICES);
    files::folder(&folder, CONFIG)
        // What the services wait for comes last.
        .and_then(|()| write("signer.toml", &policy))
        .and_then(|()| write("rig.toml", &settings))
        .map_err(|error| error.to_string())
}

/// Takes away what an earlier run of this start left.
fn unserve(places: &Places) -> io::Result<()> {
    for name in ["rig.toml", "signer.toml"] {
        match fs::remove_file(places.run().join("config").join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn settle_network(
    places: &Places,
    sections: &Sections,
    name: Option<&str>,
    kept: Option<&Kept>,
    report: &mut Report,
) -> io::Result<()> {
    if let Some(ethernet) = &sections.ethernet {
        match network::unclear(ethernet, &network::wired(&places.cards())) {
            Some(notice) => report.notices.push(notice),
            None => {
                files::folder(&places.network(), Access::root(0o755))?;
                files::write(&places.network().join(network::STATIC), network::fixed(ethernet).as_bytes(), FOR_ALL)?;
            }
        }
    }
    if let Some(wifi) = &sections.wifi {
        let password = wifi.password.clone().or_else(|| kept.and_then(|kept| kept.password(wifi)));
        if password.is_none() && !wifi.open && kept.is_none() {
            // It may be in the state, and why there is none is a notice already.
        } else if password.is_none() && !wifi.open {
            let what = format!("The password of the Wi-Fi network {} is not known.", text::shown(&wifi.network, 64));
            let next = "Write it into rig.toml: [wifi] password = \"...\". For a network without one: open = true.";
            report.notice("wifi", what, next);
        } else {
            let conf = network::wpa(wifi, password.as_ref().filter(|_| !wifi.open));
            let folder = places.run().join("config");
            files::folder(&folder, CONFIG)?;
            files::write(&folder.join("wpa_supplicant.conf"), conf.reveal().as_bytes(), Access::root(0o600))?;
        }
    }
    if let Some(name) = name {
        // A rig without its name on the network earns as well.
        let _ = fs::write(places.hostname(), name);
    }
    Ok(())
}

/// The rig's name in settings, if it is one.
fn name_in(text: &str) -> Option<String> {
    /// As the provider's settings have it.
    const NAME_MAX: usize = 32;
    let table: toml::Table = text.parse().ok()?;
    let name = table.get("owner")?.get("name")?.as_str()?;
    let is_sign = |sign: u8| sign.is_ascii_alphanumeric() || sign == b'-';
    ((1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_sign)).then(|| name.to_owned())
}

/// Writes to the stick what is new there.
fn settle_stick(
    places: &Places,
    programs: &Programs,
    disk: &Disk,
    seen: &Seen,
    settings: Option<NewSettings>,
    report: &mut Report,
) {
    let status = report.status();
    let status = (seen.status.as_deref() != Some(status.as_bytes())).then_some(status);
    let holds_secrets = settings.is_some();
    let change = stick::Change { settings, status };
    if change == stick::Change::default() {
        return;
    }
    if let Err(error) = stick::change(places, programs, disk, &change) {
        let what = match holds_secrets {
            true => "The drive RIG cannot be written to: the secrets in rig.toml stay there.",
            false => "The drive RIG cannot be written to: rig-status.txt is out of date.",
        };
        report.said(
            "stick",
            what,
            &chain(&error),
            "Look for a small switch on the stick. A worn stick needs replacing.",
        );
    }
}

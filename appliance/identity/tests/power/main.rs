//! A kill at every system call that touches a file, and what a power cut needs beyond that.
//!
//! The real code runs as a child under `strace`, once to the end with a log, and then once for each call in that log,
//! killed as it enters it. After each kill the directory is opened again: the same key, or a clean start before any
//! address was said; never a half, never two. A kill loses no data that was written; what a power cut loses is shown by
//! the log of the whole run: each rename comes after a sync of the file and before a sync of its directory.

#[path = "../rig/mod.rs"]
mod rig;
mod trace;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use identity::file::KeyFile;
use identity::{Address, KeyState, Options, Tier, Wish};
use rig::{Rig, Seen, firmware};
use swtpm::Emulator;

use trace::{CALLS, Trace};

/// What the child is told: `open`, `adopt` or `lower`, then the options, one per line.
const ORDER: &str = "RIG_IDENTITY_ORDER";
/// What the child says once it knows the address.
const SAID: &str = "address ";

/// One claim, by its name.
type Claim = (&'static str, fn() -> usize);

const CLAIMS: [Claim; 7] = [
    ("a_first_birth_in_a_tpm_survives_a_kill_anywhere", a_first_birth_in_a_tpm_survives_a_kill_anywhere),
    ("a_successors_birth_in_a_tpm_survives_a_kill_anywhere", a_successors_birth_in_a_tpm_survives_a_kill_anywhere),
    ("a_lowered_tier_survives_a_kill_anywhere", a_lowered_tier_survives_a_kill_anywhere),
    ("a_first_birth_without_a_tpm_survives_a_kill_anywhere", a_first_birth_without_a_tpm_survives_a_kill_anywhere),
    ("a_rewrap_survives_a_kill_anywhere", a_rewrap_survives_a_kill_anywhere),
    ("a_successors_birth_survives_a_kill_anywhere", a_successors_birth_survives_a_kill_anywhere),
    ("an_adoption_survives_a_kill_anywhere", an_adoption_survives_a_kill_anywhere),
];

fn main() {
    if let Ok(order) = std::env::var(ORDER) {
        return child(&order);
    }
    let filter: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_chosen = |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part));
    // A claim that panics ends the scope, and with it the program, with an error.
    std::thread::scope(|scope| {
        for (name, claim) in CLAIMS.into_iter().filter(|(name, _)| is_chosen(name)) {
            scope.spawn(move || {
                let places = claim();
                println!("test {name} ... ok, killed at {places} places");
            });
        }
    });
}

/// The process that is killed.
fn child(order: &str) {
    let mut lines = order.lines();
    let mut next = || lines.next().expect("an order has all its lines");
    let act = next();
    let options = Options {
        state: next().into(),
        hardware: next().into(),
        generation: next().parse().expect("a number"),
        tpm: next().parse().ok(),
        wish: Wish::Auto,
        vendor: None,
        approvals: None,
    };
    if act == "lower" {
        identity::change_tier(&options, Tier::N).expect("lowered");
    }
    let outcome = identity::open(&options).expect("a state is known");
    let active = outcome.active.expect("a key");
    if act == "adopt" {
        outcome.succession.expect("a successor").adopt().expect("adopted");
    }
    println!("{SAID}{}", hex::encode(active.address));
}

fn order(act: &str, options: &Options) -> String {
    let tpm = options.tpm.as_ref().map(ToString::to_string).unwrap_or_default();
    let (state, hardware) = (options.state.display(), options.hardware.display());
    format!("{act}\n{state}\n{hardware}\n{}\n{tpm}\n", options.generation)
}

/// Runs the child to its end, or to the `count`th `call`.
fn run(act: &str, options: &Options, log: &Path, kill: Option<(&str, usize)>) -> Option<Address> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "0", "-e", &format!("trace={}", CALLS.join(",")), "-o"]).arg(log);
    if let Some((call, count)) = kill {
        strace.args(["-e", &format!("inject={call}:signal=KILL:when={count}")]);
    }
    strace.arg(std::env::current_exe().expect("this program"));
    strace.env(ORDER, order(act, options));
    let done = strace.output().expect("strace runs: tests/setup.sh installs it");
    assert_eq!(done.status.success(), kill.is_none(), "{kill:?} {}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let address = said.lines().find_map(|line| line.split(SAID).nth(1).map(str::to_owned));
    address.map(|digits| hex::decode(digits.trim()).expect("hex").try_into().expect("20 bytes"))
}

/// One event of a rig's life: how it comes to it, what is done, and what must hold after a kill anywhere in it.
struct Event {
    act: &'static str,
    prepare: fn() -> Prepared,
    check: fn(&mut Prepared, said: Option<Address>),
}

struct Prepared {
    rig: Rig,
    /// The keys that there were.
    before: Vec<Address>,
    /// Its power goes with the rig's.
    emulator: Option<Emulator>,
}

impl Prepared {
    fn new(rig: Rig, before: Vec<Address>) -> Self {
        Self { rig, before, emulator: None }
    }
}

/// Kills everywhere. Returns how many places that were.
fn cut(event: &Event) -> usize {
    let prepared = (event.prepare)();
    let log = prepared.rig.path().join("trace");
    run(event.act, &prepared.rig.options, &log, None).expect("the child says its address");
    let trace = Trace::read(&log, &prepared.rig.options.state);
    trace.assert_renames_are_durable();
    let places = trace.places();
    for (call, count) in &places {
        let mut prepared = (event.prepare)();
        let log = prepared.rig.path().join("trace");
        let said = run(event.act, &prepared.rig.options, &log, Some((call, *count)));
        if let Some(emulator) = &mut prepared.emulator {
            emulator.power_cycle();
        }
        assert_no_halves(&prepared.rig);
        (event.check)(&mut prepared, said);
        assert_no_halves(&prepared.rig);
    }
    places.len()
}

/// Every key file in its place is whole, and no two places hold one key, but for the moment in which it has two names.
fn assert_no_halves(rig: &Rig) {
    let mut seen = BTreeSet::new();
    for name in ["provider.key", "successor.key"] {
        if let Ok(bytes) = fs::read(rig.file(name)) {
            let file = KeyFile::parse(&bytes).unwrap_or_else(|damage| panic!("{name}: {damage}"));
            assert!(seen.insert(file.address()), "{name} holds the other's key");
        }
    }
}

fn retired(rig: &Rig) -> Vec<Address> {
    let Ok(entries) = fs::read_dir(rig.file("retired")) else { return Vec::new() };
    let read = |path| KeyFile::parse(&fs::read(path).expect("readable")).expect("whole").address();
    entries.map(|entry| read(entry.expect("an entry").path())).collect()
}

fn address_in(rig: &Rig, name: &str) -> Option<Address> {
    let bytes = fs::read(rig.file(name)).ok()?;
    Some(KeyFile::parse(&bytes).expect("whole").address())
}

/// A first start comes to one key, and to the one that was said, if any was.
fn check_birth(prepared: &mut Prepared, said: Option<Address>) {
    let stands = address_in(&prepared.rig, "provider.key");
    let seen = prepared.rig.seen();
    assert_eq!(seen.state, KeyState::Open);
    let address = seen.address.expect("a key");
    assert!(stands.is_none_or(|stands| stands == address));
    assert!(said.is_none_or(|said| said == address));
    assert_eq!(prepared.rig.seen(), seen);
    assert!(!prepared.rig.file("provider.key.new").exists());
}

fn a_first_birth_without_a_tpm_survives_a_kill_anywhere() -> usize {
    let prepare = || Prepared::new(Rig::new(1), Vec::new());
    let places = cut(&Event { act: "open", prepare, check: check_birth });
    assert!(places >= 8, "{places}");
    places
}

fn in_tpm() -> Prepared {
    let emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    // Fields take an Argon2id each, and nothing here depends on them.
    fs::remove_dir_all(&rig.options.hardware).expect("no fields");
    Prepared { rig, before: Vec::new(), emulator: Some(emulator) }
}

fn a_first_birth_in_a_tpm_survives_a_kill_anywhere() -> usize {
    let check = |prepared: &mut Prepared, said: Option<Address>| {
        check_birth(prepared, said);
        assert_eq!(prepared.rig.seen().tier, Some(Tier::B));
        assert!(!prepared.rig.file("tls.key.new").exists());
    };
    let places = cut(&Event { act: "open", prepare: in_tpm, check });
    assert!(places >= 40, "{places}");
    places
}

fn a_successors_birth_in_a_tpm_survives_a_kill_anywhere() -> usize {
    let prepare = || {
        let mut prepared = in_tpm();
        prepared.before = vec![prepared.rig.seen().address.expect("a key")];
        firmware::clear(prepared.emulator.as_ref().expect("a TPM"));
        prepared
    };
    let check = |prepared: &mut Prepared, said: Option<Address>| {
        let (old, stands) = (prepared.before[0], address_in(&prepared.rig, "successor.key"));
        let seen = prepared.rig.seen();
        let address = seen.address.expect("a successor");
        assert_eq!((seen.state, seen.tier, seen.replaces), (KeyState::TpmCleared, Some(Tier::B), Some(old)));
        assert!(stands.is_none_or(|stands| stands == address) && said.is_none_or(|said| said == address));
        assert_eq!(prepared.rig.seen(), seen);
    };
    let places = cut(&Event { act: "open", prepare, check });
    assert!(places >= 40, "{places}");
    places
}

fn a_lowered_tier_survives_a_kill_anywhere() -> usize {
    let prepare = || {
        let mut prepared = in_tpm();
        prepared.before = vec![prepared.rig.seen().address.expect("a key")];
        prepared
    };
    let check = |prepared: &mut Prepared, said: Option<Address>| {
        let seen = prepared.rig.seen();
        assert_eq!((seen.address, seen.state), (Some(prepared.before[0]), KeyState::Open));
        assert!(matches!(seen.tier, Some(Tier::B | Tier::N)));
        assert!(said.is_none() || seen.tier == Some(Tier::N));
    };
    let places = cut(&Event { act: "lower", prepare, check });
    assert!(places >= 20, "{places}");
    places
}

fn a_rewrap_survives_a_kill_anywhere() -> usize {
    let prepare = || {
        let rig = Rig::new(1);
        let before = vec![rig.seen().address.expect("a key")];
        rig.with_another_gpu(9);
        Prepared::new(rig, before)
    };
    let check = |prepared: &mut Prepared, _: Option<Address>| {
        assert_eq!(address_in(&prepared.rig, "provider.key"), Some(prepared.before[0]));
        let seen = prepared.rig.seen();
        assert_eq!((seen.address, seen.state), (Some(prepared.before[0]), KeyState::Open));
        // The next change is borne: it was bound anew, now at the latest.
        fs::remove_file(prepared.rig.options.hardware.join("sys/class/dmi/id/board_serial")).expect("a part goes");
        assert_eq!(prepared.rig.seen().address, Some(prepared.before[0]));
    };
    let places = cut(&Event { act: "open", prepare, check });
    assert!(places >= 8, "{places}");
    places
}

/// A rig whose owner asked for a new key.
fn asked() -> Prepared {
    let mut rig = Rig::new(1);
    let before = vec![rig.seen().address.expect("a key")];
    rig.options.generation = 1;
    Prepared::new(rig, before)
}

fn check_successor(prepared: &mut Prepared, said: Option<Address>) {
    let (old, stands) = (prepared.before[0], address_in(&prepared.rig, "successor.key"));
    assert_eq!(address_in(&prepared.rig, "provider.key"), Some(old));
    let seen = prepared.rig.seen();
    let address = seen.address.expect("a successor");
    assert_eq!((seen.state, seen.replaces), (KeyState::RotationAsked, Some(old)));
    assert!(address != old && stands.is_none_or(|stands| stands == address));
    assert!(said.is_none_or(|said| said == address));
    assert_eq!(prepared.rig.seen(), seen);
    // Nothing was lost: the old key opens as before.
    prepared.rig.options.generation = 0;
    assert_eq!(
        prepared.rig.seen(),
        Seen { address: Some(old), tier: Some(Tier::N), state: KeyState::Open, replaces: None }
    );
}

fn a_successors_birth_survives_a_kill_anywhere() -> usize {
    let places = cut(&Event { act: "open", prepare: asked, check: check_successor });
    assert!(places >= 8, "{places}");
    places
}

fn an_adoption_survives_a_kill_anywhere() -> usize {
    let prepare = || {
        let mut prepared = asked();
        prepared.before.push(prepared.rig.seen().address.expect("a successor"));
        prepared
    };
    let check = |prepared: &mut Prepared, said: Option<Address>| {
        let [old, new] = prepared.before[..] else { panic!("two keys") };
        let provider = address_in(&prepared.rig, "provider.key").expect("there is always a provider key");
        let kept = retired(&prepared.rig);
        match provider == old {
            true => assert_eq!(address_in(&prepared.rig, "successor.key"), Some(new)),
            false => assert_eq!((provider, &kept[..]), (new, &[old][..])),
        }
        assert!(said.is_none() || provider == new);
        let mut outcome = prepared.rig.open();
        assert_eq!(outcome.active.as_ref().map(|active| active.address), Some(new));
        if let Some(succession) = &mut outcome.succession {
            succession.adopt().expect("adopted");
        }
        assert_eq!(retired(&prepared.rig), [old]);
        assert_eq!((prepared.rig.seen().state, prepared.rig.seen().address), (KeyState::Open, Some(new)));
        assert!(!prepared.rig.file("successor.key").exists());
    };
    let places = cut(&Event { act: "adopt", prepare, check });
    assert!(places >= 10, "{places}");
    places
}

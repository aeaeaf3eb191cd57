//! A rig at work, and how it is killed.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use testbed::market::{Delivery, Market};
use testbed::rig::{Rig, RigOptions};

/// Longest time from a rig's start until it serves its sources.
pub(crate) const UP: Duration = Duration::from_secs(90);

/// A market with one source, served by a paired rig.
pub(crate) struct Stand {
    pub(crate) market: Market,
    pub(crate) rig: Rig,
    pub(crate) source: Address,
    /// What the owner had when the rig began to serve.
    pub(crate) before_wei: U256,
}

// === impl Stand ===

impl Stand {
    /// A fresh market, and a rig with these options.
    pub(crate) async fn up(options: RigOptions) -> Stand {
        let market = Market::open().await;
        let source = market.source(Delivery::First).await;
        let rig = Rig::start(&market.devnet.ready, &options).expect("the rig starts");
        market.pair(&rig).await;
        rig.wait_serving(1, UP).expect("the rig serves");
        let before_wei = market.earned_wei().await;
        Stand { market, rig, source, before_wei }
    }
}

/// Waits for the `times`-th fact of a kind since the ledger began, kills the provider at once, and starts it again.
pub(crate) fn kill_after(rig: &mut Rig, kind: &str, times: u32) {
    await_fact(rig, 0, kind, times);
    kill(rig);
}

/// Kills the provider as a power cut would, and starts it again.
pub(crate) fn kill(rig: &mut Rig) {
    rig.kill_provider().expect("it is killed");
    rig.start_provider().expect("it starts again");
}

/// The provider's process.
pub(crate) fn pid(rig: &Rig) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(i32::try_from(rig.provider_pid().expect("it runs")).expect("a process id"))
}

/// The number of the newest fact.
pub(crate) fn newest_fact(rig: &Rig) -> i64 {
    let ledger = open_ledger(rig).expect("the ledger");
    ledger.query_row("SELECT coalesce(max(seq), 0) FROM fact", [], |row| row.get(0)).expect("facts")
}

/// The ledger beside its owner, for reading.
fn open_ledger(rig: &Rig) -> rusqlite::Result<rusqlite::Connection> {
    rusqlite::Connection::open_with_flags(rig.ledger(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Waits for the `times`-th fact of a kind (`%` for any) after the fact `from`.
pub(crate) fn await_fact(rig: &Rig, from: i64, kind: &str, times: u32) {
    let began = std::time::Instant::now();
    let mut last = String::new();
    while began.elapsed() < UP {
        // The provider may not have made its ledger yet.
        let count = open_ledger(rig).and_then(|ledger| {
            let count = "SELECT count(*) FROM fact WHERE seq > ?1 AND json_extract(news, '$.news') LIKE ?2";
            ledger.query_row(count, rusqlite::params![from, kind], |row| row.get::<_, u32>(0))
        });
        match count {
            Ok(count) if count >= times => return,
            other => last = format!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("no {times} facts of kind {kind} in {UP:?}: {last}");
}

/// The most memory that the provider has held, in KiB.
pub(crate) fn peak_memory_kib(rig: &Rig) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid(rig))).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

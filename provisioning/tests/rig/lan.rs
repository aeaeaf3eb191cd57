//! `rig pair --all` on a network of the test's own: real announcements, a real browser, a real chain.

use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use alloy::primitives::Address;
use alloy::providers::Provider;
use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use nix::sched::{CloneFlags, unshare};
use provisioning::devnet::{Account, ContractSettings, Role};
use serde_json::{Value, json};
use signer::identity::pairing_code;

use crate::owner::Town;
use crate::stage::Stage;

const SERVICE: &str = "_opengpu-rig._tcp.local.";
const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

/// What a rig says, with the keys that `but` says otherwise.
fn told(address: Address, owner: &str, but: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let mut told = vec![
        ("v", "1".to_owned()),
        ("address", address.to_string()),
        ("code", pairing_code(address)),
        ("tier", "B".to_owned()),
        ("state", "ID-00".to_owned()),
        ("name", "attic".to_owned()),
        ("owner", owner.to_owned()),
        ("paired", "0".to_owned()),
    ];
    for (key, value) in &mut told {
        if let Some((_, other)) = but.iter().find(|(each, _)| each == key) {
            *value = (*other).to_owned();
        }
    }
    told
}

/// Speaks on the loopback interface until it is dropped.
struct Announcer(ServiceDaemon);

impl Announcer {
    fn new() -> Announcer {
        let daemon = ServiceDaemon::new().unwrap();
        daemon.disable_interface(IfKind::All).unwrap();
        daemon.enable_interface(IfKind::LoopbackV4).unwrap();
        Announcer(daemon)
    }

    fn announce(&self, instance: &str, told: &[(&'static str, String)]) {
        let host = format!("{instance}.local.");
        let mut service = ServiceInfo::new(SERVICE, instance, &host, "127.0.0.1", 9, told).unwrap();
        service.set_requires_probe(false);
        while let Err(error) = self.0.register(service.clone()) {
            // Its queue is full for the moment.
            assert!(matches!(error, mdns_sd::Error::Again), "{error}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        if let Ok(ended) = self.0.shutdown() {
            let _ = ended.recv_timeout(Duration::from_secs(10));
        }
    }
}

/// Runs `work` on a thread in a network namespace with nothing but a loopback interface that carries multicast. Threads
/// and processes that it starts are in the namespace too.
fn in_own_network<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run the tests as root");
        for words in ["link set lo up multicast on", "route add 224.0.0.0/4 dev lo"] {
            let ran = Command::new("ip").args(words.split(' ')).output().unwrap();
            assert!(ran.status.success(), "ip {words}: {}", String::from_utf8_lossy(&ran.stderr));
        }
        work()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn in_own_runtime<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    in_own_network(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
}

fn rig<'a>(answer: &'a Value, host: &str) -> &'a Value {
    let rigs = answer["rigs"].as_array().unwrap();
    rigs.iter()
        .find(|rig| rig["host"] == json!(format!("{host}.local")))
        .unwrap_or_else(|| panic!("{host} is not one of {}", rigs.len()))
}

#[test]
fn every_rig_that_asks_is_paired_and_one_that_fails_or_is_doubtful_stops_no_other() {
    in_own_runtime(async || {
        let town = Town::up(ContractSettings::default()).await;
        let account = |role| Account { ..town.devnet.account(role).clone() };
        let (one, two, taken) = (account(Role::Spare1), account(Role::Spare2), account(Role::Agent));
        let master = account(Role::Master).address.to_string();
        // A rig that asks for this owner and belongs to another on the chain.
        let other = account(Role::Judge);
        let theirs = ["pair", &taken.address.to_string(), "--wait", "0s"];
        assert_eq!(town.rig(Role::Judge, &theirs).await.code, Some(0));
        let terminal = chain::abi::Terminal::new(town.devnet.ready.contracts.terminal, town.chain(&taken));
        assert!(terminal.announceMaster(other.address).send().await.unwrap().get_receipt().await.unwrap().status());

        let announcer = Announcer::new();
        let twin = Address::repeat_byte(2);
        announcer.announce("one", &told(one.address, &master, &[("name", "left \x1b[2J")]));
        announcer.announce("two", &told(two.address, &master, &[("tier", "N")]));
        announcer.announce("taken", &told(taken.address, &master, &[]));
        announcer.announce("twin-a", &told(twin, &master, &[]));
        announcer.announce("twin-b", &told(twin, &master, &[]));
        announcer.announce("foreign", &told(Address::repeat_byte(3), &other.address.to_string(), &[]));
        announcer.announce("closed", &told(Address::repeat_byte(4), &master, &[("state", "ID-13")]));
        announcer.announce("done", &told(Address::repeat_byte(5), &master, &[("paired", "1")]));
        announcer.announce("liar", &told(Address::repeat_byte(6), &master, &[("code", "AAAA-AAAA-AAAA")]));

        let all = ["pair", "--all", "--interface", "loopback", "--for", "4s", "--gas", "1000001", "--wait", "60s"];
        let list = town.rig(Role::Master, &all).await.json();
        assert_eq!(rig(&list, "one")["outcome"], json!("asks"), "without --yes nothing but the list: {list}");
        assert!(!terminal.isProvider(one.address).call().await.unwrap());

        let yes = [&all[..], &["--yes"]].concat();
        let halves = async {
            town.announce_master(&one).await;
            town.announce_master(&two).await;
        };
        let (ended, ()) = tokio::join!(town.rig(Role::Master, &yes), halves);
        assert_eq!(ended.code, Some(1), "one has failed: {ended:?}");
        let mut lines = ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let (answer, failure) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!(failure["error"], json!("1 rig(s) could not be paired"));
        assert_eq!((answer["rigs"].as_array().unwrap().len(), &answer["unreadable"]), (8, &json!(1)), "{answer}");
        for host in ["one", "two"] {
            assert_eq!(rig(&answer, host)["outcome"], json!("paired"), "{answer}");
            assert!(!rig(&answer, host)["announced"]["tx"].is_null() && !rig(&answer, host)["funded"]["tx"].is_null());
        }
        assert_eq!((&rig(&answer, "one")["name"], &rig(&answer, "two")["tier"]), (&json!("left ??2J"), &json!("N")));
        assert_eq!(rig(&answer, "one")["code"], json!(pairing_code(one.address)));
        let why = |host: &str| rig(&answer, host)["why"].as_str().unwrap().to_owned();
        assert!(
            rig(&answer, "taken")["outcome"] == json!("failed") && why("taken").contains("AlreadyPaired"),
            "{answer}"
        );
        for (host, words) in [
            ("twin-a", "two answers claim this address"),
            ("twin-b", "two answers claim this address"),
            ("foreign", "another owner"),
            ("closed", "its key is not open"),
            ("done", "it is paired"),
        ] {
            assert!(rig(&answer, host)["outcome"] == json!("skipped") && why(host).contains(words), "{host}: {answer}");
        }
        drop(announcer);
        town.devnet.down().await.unwrap();
    });
}

/// Announces `count` rigs that nobody has, some with a record that is none, until the answer is dropped.
fn flood(count: u64, owner: &str) -> (mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let (stop, stopped) = mpsc::channel();
    let owner = owner.to_owned();
    let flood = std::thread::spawn(move || {
        let hostile = Announcer::new();
        for number in 0..count {
            let mut address = [0xaa; 20];
            address[..8].copy_from_slice(&number.to_be_bytes());
            let but = [("name", "\x1b]0;owned\x07"), ("code", "AAAA-AAAA-AAAA")];
            let but = if number % 4 == 0 { &but[..] } else { &but[..1] };
            hostile.announce(&format!("flood-{number}"), &told(address.into(), &owner, but));
        }
        let _ = stopped.recv();
    });
    (stop, flood)
}

#[test]
fn a_hostile_announcer_with_five_thousand_rigs_gets_nothing_and_stops_nothing() {
    in_own_runtime(async || {
        let town = Town::up(ContractSettings::default()).await;
        let master = town.devnet.account(Role::Master).address.to_string();
        let (stop, flood) = flood(5_000, &master);
        let all = ["pair", "--all", "--interface", "loopback", "--for", "10s", "--yes"];
        let began = std::time::Instant::now();
        let ended = town.rig(Role::Master, &all).await;
        assert!(began.elapsed() < Duration::from_secs(60), "it ends in time: {:?}", began.elapsed());
        drop(stop);
        flood.join().unwrap();
        let mut lines = ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let (list, failure) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!(list["rigs"].as_array().unwrap().len(), 1024);
        assert!(list["left_out"].as_u64().unwrap() > 0 && list["unreadable"].as_u64().unwrap() > 0);
        assert!(failure["error"].as_str().unwrap().contains("more than 1024 rigs answer"), "{failure}");
        assert!(!list.to_string().contains("\\u001b"), "nothing that moves a cursor");
        let chain = town.chain(town.devnet.account(Role::Master));
        let owner = town.devnet.account(Role::Master).address;
        assert_eq!(chain.get_transaction_count(owner).await.unwrap(), 0, "nothing was sent");
        town.devnet.down().await.unwrap();
    });
}

#[test]
fn a_hostile_announcer_adds_rows_and_takes_none_away() {
    in_own_runtime(async || {
        let town = Town::up(ContractSettings::default()).await;
        let master = town.devnet.account(Role::Master).address.to_string();
        let (mine, honest) = (Address::repeat_byte(9), Announcer::new());
        honest.announce("mine", &told(mine, &master, &[("name", "mine")]));
        let (stop, flood) = flood(400, &master);
        let all = ["pair", "--all", "--interface", "loopback", "--for", "10s"];
        let list = town.rig(Role::Master, &all).await.json();
        drop((stop, honest));
        flood.join().unwrap();
        let heard = list["rigs"].as_array().unwrap().len();
        assert!(heard > 200, "{heard}");
        assert_eq!((&rig(&list, "mine")["address"], &list["left_out"]), (&json!(mine.to_string()), &json!(0)));
        town.devnet.down().await.unwrap();
    });
}

#[test]
fn silence_is_an_empty_list_and_an_interface_that_is_not_there_is_named() {
    in_own_runtime(async || {
        let town = Town::up(ContractSettings::default()).await;
        let ask = ["pair", "--all", "--for", "1s", "--interface"];
        let none = town.rig(Role::Master, &[&ask[..], &["loopback"]].concat()).await.json();
        assert_eq!((&none["rigs"], &none["unreadable"]), (&json!([]), &json!(0)));
        let ended = town.rig(Role::Master, &[&ask[..], &["rig9"]].concat()).await;
        assert!(ended.code == Some(2) && ended.stdout.contains("no network interface rig9"), "{ended:?}");
        town.devnet.down().await.unwrap();
    });
    let stage = Stage::new();
    let key = stage.file("owner.key", KEY);
    for span in ["0s", "11m", "5"] {
        let ended = stage.rig(&["pair", "--all", "--for", span, "--key-file", &key]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
    }
}

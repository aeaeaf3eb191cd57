//! The crate against a driver that is not there: the fake `libnvidia-ml.so.1` with a script for each test.
//!
//! The two libraries are built first: `cargo build -p fake-cuda -p fake-nvml`. A test whose script changes while it
//! runs starts itself again as a child, for the fake takes the changing script's place from the environment.

use fake_gpu_script::{Ecc, Event, EventKind, NVML_SCRIPT, Process, Script, State, built, install};
use gpu::recovery::RecoveryAction;
use gpu::settings::{ClockRange, FanPoint, Settings};
use gpu::telemetry::Throttle;
use gpu::watch::{Notice, Observation, Watch};
use gpu::{Applied, Driver, FanBefore, Freedom, GpuError, GpuUuid, Restore};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// NVML's code for a question that a board does not support.
const NOT_SUPPORTED: u32 = 3;

/// A driver with a script, in a folder of its own; it reads the script there as long as it runs.
struct Fake {
    _dir: TempDir,
    nvml: PathBuf,
}

// === impl Fake ===

impl Fake {
    fn new(script: &Script) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let built = |name| built(name).expect("the fake driver is built");
        let installed = install(dir.path(), &built("fake_cuda"), &built("fake_nvml"), script).expect("it is installed");
        Self { nvml: installed.nvml, _dir: dir }
    }

    fn open(&self) -> Arc<Driver> {
        Arc::new(Driver::open_at(&self.nvml).expect("the driver opens"))
    }

    fn state(&self) -> State {
        State::read(&State::path_of(&self.nvml)).expect("the state can be read")
    }
}

/// A machine with one GPU, changed by `change`; processes of the machine that runs the test are not looked at.
fn one_gpu(change: impl FnOnce(&mut fake_gpu_script::Gpu)) -> Script {
    let mut script = Script::default();
    script.nvml.find_processes = false;
    change(&mut script.gpus[0]);
    script
}

fn uuid_of(script: &Script, index: usize) -> GpuUuid {
    script.gpus[index].uuid.parse().expect("the fake has real UUIDs")
}

/// Runs the test of this name again as a child whose script is a file that may change; true in the child.
fn is_child_with_a_changing_script(test: &str) -> bool {
    if std::env::var_os(NVML_SCRIPT).is_some() {
        return true;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let script = dir.path().join("script.toml");
    write(&script, &one_gpu(|_| {}));
    let program = std::env::current_exe().expect("a test has a program");
    let output = Command::new(program).args(["--exact", test, "--nocapture"]).env(NVML_SCRIPT, script).output();
    let output = output.expect("the child starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    false
}

/// In a child: changes the script under the running driver.
fn change(script: &Script) {
    write(Path::new(&std::env::var_os(NVML_SCRIPT).expect("a child has a script")), script);
}

/// Whoever reads it sees the old or the new script, never half of one.
fn write(path: &Path, script: &Script) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, script.to_toml().expect("a script is TOML")).expect("it is written");
    std::fs::rename(fresh, path).expect("it is put in place");
}

/// The observations until `enough`.
fn observe(notices: &Receiver<Notice>, enough: impl Fn(&[Observation]) -> bool) -> Vec<Observation> {
    let mut seen = Vec::new();
    while !enough(&seen) {
        match notices.recv_timeout(PATIENCE) {
            Ok(Notice::Observed { what, .. }) => seen.push(what),
            Ok(other) => panic!("{other:?} after {seen:?}"),
            Err(error) => panic!("{error} after {seen:?}"),
        }
    }
    seen
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn without_a_driver_there_is_an_error_in_plain_words() {
    let dir = tempfile::tempdir().expect("a folder");
    let not_a_library = dir.path().join("libnvidia-ml.so.1");
    std::fs::write(&not_a_library, "text").expect("it is written");
    for path in [Path::new("/nonexistent/libnvidia-ml.so.1"), &not_a_library] {
        let error = Driver::open_at(path).expect_err("there is none");
        assert!(matches!(error, GpuError::NoDriver(_)), "{error:?}");
        assert!(error.to_string().starts_with("this machine has no NVIDIA driver"), "{error}");
    }
}

#[test]
fn a_driver_that_does_not_start_says_why() {
    let check = |code: u32, is_expected: fn(&GpuError) -> bool| {
        let mut script = one_gpu(|_| {});
        script.nvml.init = code;
        let error = Driver::open_at(&Fake::new(&script).nvml).expect_err("it does not start");
        assert!(is_expected(&error), "{code}: {error:?}");
    };
    check(9, |error| matches!(error, GpuError::NoDriver(_)));
    check(18, |error| matches!(error, GpuError::DriverMismatch(_)));
    check(999, |error| matches!(error, GpuError::Open(_)));
}

#[test]
fn the_inventory_is_what_the_board_says() {
    let script = one_gpu(|gpu| gpu.mig = Some(true));
    let fake = Fake::new(&script);
    let inventory = fake.open().inventory().expect("the GPUs answer");
    let scripted = &script.gpus[0];
    assert_eq!(inventory.driver_version.as_deref(), Some("570.124.06"));
    assert_eq!(inventory.cuda_version.map(|version| version.to_string()).as_deref(), Some("12.8"));
    assert_eq!(inventory.silent, []);
    let gpu = &inventory.gpus[0];
    assert_eq!((gpu.index, &gpu.model, gpu.uuid.as_str()), (0, &scripted.name, scripted.uuid.as_str()));
    assert_eq!(gpu.pci_bus_id.as_ref(), Some(&scripted.pci_bus_id));
    assert_eq!(gpu.serial.as_ref(), Some(&scripted.serial));
    assert_eq!(gpu.vram_bytes, Some(scripted.vram_bytes));
    assert_eq!(gpu.compute_capability.map(|cc| cc.to_string()).as_deref(), Some("8.9"));
    assert_eq!((gpu.pcie.generation, gpu.pcie.width_max), (Some(4), Some(16)));
    assert_eq!((gpu.power.default_mw, gpu.power.min_mw), (Some(300_000), Some(100_000)));
    assert_eq!((gpu.power.max_mw, gpu.power.limit_mw), (Some(350_000), Some(300_000)));
    assert_eq!((gpu.temperature_limits.shutdown_c, gpu.temperature_limits.slowdown_c), (Some(98), Some(95)));
    assert_eq!(gpu.ecc.map(|ecc| ecc.is_on), Some(true));
    assert_eq!(gpu.mig.map(|mig| mig.is_on), Some(true));
    assert_eq!(gpu.fans, Some(2));
    let text = serde_json::to_string(&inventory).expect("it can be written");
    assert_eq!(serde_json::from_str::<gpu::Inventory>(&text).expect("it can be read"), inventory);
    assert_eq!(gpu::base_data::gpu_member(&inventory)["totalVRAM"]["value"], 1);
}

#[test]
fn what_a_consumer_board_does_not_have_is_left_out() {
    let mut script = one_gpu(|gpu| {
        gpu.serial = String::new();
        gpu.mig = None;
        gpu.fans = 0;
    });
    for call in ["nvmlDeviceGetEccMode", "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetFieldValues"] {
        script.nvml.fail.insert(call.to_owned(), NOT_SUPPORTED);
    }
    let fake = Fake::new(&script);
    let driver = fake.open();
    let gpu = &driver.inventory().expect("the GPU answers").gpus[0];
    assert_eq!((gpu.serial.as_ref(), gpu.ecc, gpu.mig), (None, None, None));
    let sample = driver.sample(&gpu.uuid).expect("the GPU answers");
    assert_eq!((sample.ecc.uncorrected, sample.rows, sample.memory_c), (None, None, None));
    assert_eq!(sample.recovery, None);
    assert_eq!(sample.fans_percent, Vec::<u32>::new());
    assert_eq!(sample.gpu_c, Some(41));
}

#[test]
fn a_driver_without_a_symbol_or_with_a_failing_call_costs_one_value() {
    let mut missing = one_gpu(|_| {});
    missing.missing_symbols.push("nvmlDeviceGetPowerUsage".to_owned());
    let mut failing = one_gpu(|_| {});
    failing.nvml.fail.insert("nvmlDeviceGetPowerUsage".to_owned(), 999);
    for script in [missing, failing] {
        let fake = Fake::new(&script);
        let sample = fake.open().sample(&uuid_of(&script, 0)).expect("the GPU answers");
        assert_eq!((sample.power_mw, sample.gpu_c), (None, Some(41)));
    }
}

#[test]
fn a_sample_is_what_the_board_measures() {
    let script = one_gpu(|gpu| {
        gpu.throttle_reasons = 4 | 64;
        gpu.utilisation_percent = [97, 40];
        gpu.pcie_replays = 3;
        gpu.pcie_throughput_kbps = [1_000, 2_000];
        gpu.ecc = Some(Ecc { volatile: [5, 1], aggregate: [50, 2], remapped_rows: [1, 2], ..Ecc::default() });
        gpu.recovery_action = 4;
        gpu.processes = vec![Process { pid: 4_242, vram_bytes: 1 << 20 }];
    });
    let fake = Fake::new(&script);
    let sample = fake.open().sample(&uuid_of(&script, 0)).expect("the GPU answers");
    assert_eq!((sample.gpu_percent, sample.memory_percent), (Some(97), Some(40)));
    assert_eq!(sample.throttle, [Throttle::PowerCap, Throttle::HardwareHeat].into());
    assert_eq!((sample.power_mw, sample.energy_mj), (Some(31_500), Some(123_456_789)));
    assert_eq!((sample.gpu_c, sample.memory_c), (Some(41), Some(48)));
    assert_eq!((sample.clocks.sm_mhz, sample.clocks.memory_mhz), (Some(210), Some(405)));
    assert_eq!(sample.pcie.replays, Some(3));
    assert_eq!((sample.pcie.sent_kb_per_s, sample.pcie.received_kb_per_s), (Some(1_000), Some(2_000)));
    assert_eq!((sample.ecc.corrected, sample.ecc.uncorrected), (Some(5), Some(1)));
    assert_eq!((sample.ecc.corrected_ever, sample.ecc.uncorrected_ever), (Some(50), Some(2)));
    let rows = sample.rows.expect("the board has spare rows");
    assert_eq!((rows.corrected, rows.uncorrected, rows.is_pending, rows.has_failed), (1, 2, false, false));
    assert_eq!(sample.recovery, Some(RecoveryAction::DrainAndReset));
    assert_eq!(sample.fans_percent, [30, 30]);
    let processes: Vec<_> = sample.processes.iter().map(|process| (process.pid, process.memory_bytes)).collect();
    assert_eq!(processes, [(4_242, Some(1 << 20))]);
}

#[test]
fn a_gpu_that_is_lost_hides_no_other() {
    let mut script = one_gpu(|gpu| gpu.lost = true);
    script.gpus.push(fake_gpu_script::Gpu::numbered(1));
    let fake = Fake::new(&script);
    let driver = fake.open();
    let inventory = driver.inventory().expect("the driver answers");
    assert_eq!(inventory.gpus.iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>(), [uuid_of(&script, 1)]);
    assert_eq!(inventory.silent.iter().map(|silent| silent.index).collect::<Vec<_>>(), [0]);
    assert!(driver.sample(&uuid_of(&script, 0)).is_err());
    let stranger = "GPU-99999999-0000-4000-8000-000000000000".parse().expect("a UUID");
    assert!(matches!(driver.sample(&stranger), Err(GpuError::NoSuchGpu { .. })));
}

#[test]
fn a_gpu_is_free_when_nobody_but_us_computes_on_it() {
    let script = one_gpu(|gpu| gpu.processes = vec![Process { pid: 4_242, vram_bytes: 1 }]);
    let fake = Fake::new(&script);
    let (driver, gpu) = (fake.open(), uuid_of(&script, 0));
    let pids = |freedom| match freedom {
        Freedom::Free => Vec::new(),
        Freedom::Held(processes) => processes.into_iter().map(|process| process.pid).collect(),
    };
    assert_eq!(pids(driver.freedom(&gpu, &[]).expect("it answers")), [4_242]);
    assert_eq!(driver.freedom(&gpu, &[4_242]).expect("it answers"), Freedom::Free);
    let began = Instant::now();
    assert_eq!(pids(driver.wait_free(&gpu, &[], Duration::from_millis(100)).expect("it answers")), [4_242]);
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[test]
fn settings_are_applied_and_put_back() {
    let script = one_gpu(|_| {});
    let fake = Fake::new(&script);
    let (driver, gpu) = (fake.open(), uuid_of(&script, 0));
    let point = |temperature_c, percent| FanPoint { temperature_c, percent };
    let settings = Settings {
        power_limit_mw: Some(200_000),
        locked_clocks_mhz: Some(ClockRange { min: 1_200, max: 1_500 }),
        locked_memory_clocks_mhz: None,
        fan_curve: Some(vec![point(40, 50), point(80, 100)]),
    };
    let checked = settings.check(&driver.limits(&gpu).expect("it answers")).expect("the board takes them");
    let restore = Restore::remember(&driver, &checked).expect("it answers");
    assert_eq!((restore.power_limit_mw, restore.resets_clocks), (Some(300_000), true));
    assert_eq!((restore.resets_memory_clocks, &restore.fans[..]), (false, &[FanBefore::Automatic; 2][..]));
    assert!(fake.state().is_default());

    let mut applied = Applied::apply(Arc::clone(&driver), &checked, restore.clone()).expect("they are applied");
    applied.steer_fans(60).expect("the fans turn");
    let set = fake.state().settings(gpu.as_str());
    assert_eq!((set.power_limit_mw, set.gpu_clocks_mhz), (Some(200_000), Some([1_200, 1_500])));
    assert_eq!(set.fans_percent.values().copied().collect::<Vec<_>>(), [75, 75]);
    let calls = fake.state().calls.len();
    applied.steer_fans(60).expect("nothing to do");
    assert_eq!(fake.state().calls.len(), calls);
    drop(applied);
    assert!(fake.state().is_default(), "{:?}", fake.state());

    // A process that is killed drops nothing; the next one has what is on disk.
    let applied = Applied::apply(Arc::clone(&driver), &checked, restore.clone()).expect("they are applied");
    std::mem::forget(applied);
    let text = serde_json::to_string(&restore).expect("it can be written");
    let read: Restore = serde_json::from_str(&text).expect("it can be read");
    read.restore(&driver).expect("it is put back");
    assert!(fake.state().is_default(), "{:?}", fake.state());
}

#[test]
fn a_setting_that_the_driver_refuses_undoes_those_before_it() {
    let mut script = one_gpu(|_| {});
    script.nvml.fail.insert("nvmlDeviceSetGpuLockedClocks".to_owned(), 4);
    let fake = Fake::new(&script);
    let (driver, gpu) = (fake.open(), uuid_of(&script, 0));
    let settings = Settings {
        power_limit_mw: Some(200_000),
        locked_clocks_mhz: Some(ClockRange { min: 1_200, max: 1_500 }),
        ..Settings::default()
    };
    let checked = settings.check(&driver.limits(&gpu).expect("it answers")).expect("the board takes them");
    let restore = Restore::remember(&driver, &checked).expect("it answers");
    let error = Applied::apply(driver, &checked, restore).expect_err("it is refused");
    assert!(matches!(error, GpuError::Call { what: "lock the clocks", .. }), "{error:?}");
    assert!(!fake.state().calls.is_empty() && fake.state().is_default(), "{:?}", fake.state());
}

#[test]
fn the_watch_tells_events_of_the_right_gpu() {
    let mut script = one_gpu(|_| {});
    script.gpus.push(fake_gpu_script::Gpu::numbered(1));
    script.events = vec![
        Event { gpu: 1, kind: EventKind::Xid, data: 31 },
        Event { gpu: 0, kind: EventKind::DoubleBitEcc, data: 0 },
        Event { gpu: 0, kind: EventKind::Xid, data: 999 },
    ];
    let fake = Fake::new(&script);
    let (watch, notices) = Watch::start(fake.open()).expect("the watch begins");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match notices.recv_timeout(PATIENCE).expect("there are three") {
            Notice::Observed { gpu, what, .. } => seen.push((gpu, what)),
            other => panic!("{other:?}"),
        }
    }
    let (first, second) = (uuid_of(&script, 0), uuid_of(&script, 1));
    let expected = [
        (second.clone(), Observation::Xid(31)),
        (first.clone(), Observation::EccUncorrected),
        (first.clone(), Observation::Xid(999)),
    ];
    assert_eq!(seen, expected);
    for gpu in [first, second] {
        wait_until("two samples", || watch.samples(&gpu).len() >= 2);
        assert_eq!(watch.summary(&gpu).and_then(|summary| summary.power_mw).map(|power| power.max), Some(31_500));
        assert_eq!(watch.latest(&gpu).and_then(|sample| sample.gpu_c), Some(41));
    }
}

#[test]
fn a_watch_without_events_still_takes_samples() {
    let mut script = one_gpu(|_| {});
    script.nvml.fail.insert("nvmlDeviceRegisterEvents".to_owned(), NOT_SUPPORTED);
    let fake = Fake::new(&script);
    let (watch, _notices) = Watch::start(fake.open()).expect("the watch begins");
    wait_until("two samples", || watch.samples(&uuid_of(&script, 0)).len() >= 2);
}

#[test]
fn a_gpu_that_fails_while_it_is_watched_is_told_once() {
    if !is_child_with_a_changing_script("a_gpu_that_fails_while_it_is_watched_is_told_once") {
        return;
    }
    let healthy = one_gpu(|gpu| gpu.ecc = Some(Ecc::default()));
    change(&healthy);
    let (fake, gpu) = (Fake::new(&healthy), uuid_of(&healthy, 0));
    let (watch, notices) = Watch::start(fake.open()).expect("the watch begins");
    wait_until("a sample", || watch.latest(&gpu).is_some());

    change(&one_gpu(|gpu| gpu.ecc = Some(Ecc { volatile: [0, 1], ..Ecc::default() })));
    assert_eq!(observe(&notices, |seen| !seen.is_empty()), [Observation::EccUncorrected]);

    let asks = |gpu: &mut fake_gpu_script::Gpu| {
        gpu.ecc = Some(Ecc { volatile: [0, 1], ..Ecc::default() });
        gpu.recovery_action = 1;
    };
    change(&one_gpu(asks));
    assert_eq!(observe(&notices, |seen| !seen.is_empty()), [Observation::Recovery(RecoveryAction::GpuReset)]);

    change(&one_gpu(|gpu| gpu.lost = true));
    assert_eq!(observe(&notices, |seen| !seen.is_empty()), [Observation::FallenOffTheBus]);
    let samples = watch.samples(&gpu).len();

    // It comes back, so its next loss is news.
    change(&one_gpu(asks));
    wait_until("a sample after the loss", || watch.samples(&gpu).len() > samples);
    change(&one_gpu(|gpu| gpu.lost = true));
    assert_eq!(observe(&notices, |seen| !seen.is_empty()), [Observation::FallenOffTheBus]);
}

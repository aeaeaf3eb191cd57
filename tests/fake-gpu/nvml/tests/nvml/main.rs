//! The library as a rig meets it: opened by path, called through nvml-wrapper.
//!
//! Each test installs a library of its own, so they share nothing, and installing again changes the weather: the library
//! reads its file at every call.

mod weather;

use fake_gpu_script::{Ecc, Gpu, Script, State, built, install};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, ComputeMode, EccCounter, MemoryError, PcieUtilCounter, PerformancePolicy, TemperatureSensor,
    TemperatureThreshold,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use tempfile::TempDir;

/// A directory with an installed library.
struct Fake(TempDir);

// === impl Fake ===

impl Fake {
    fn new(script: &Script) -> Fake {
        let fake = Fake(tempfile::tempdir().expect("a directory"));
        fake.install(script);
        fake
    }

    fn install(&self, script: &Script) {
        let nvml = built("fake_nvml").expect("cargo builds the library before its tests");
        let cuda = self.0.path().join("unused");
        std::fs::write(&cuda, "").expect("written");
        install(self.0.path(), &cuda, &nvml, script).expect("installed");
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("libnvidia-ml.so")
    }

    fn open(&self) -> Result<Nvml, NvmlError> {
        Nvml::builder().lib_path(self.path().as_os_str()).init()
    }

    fn state(&self) -> State {
        State::read(&State::path_of(&self.path())).expect("a state")
    }
}

#[test]
fn the_inventory_is_the_scripts() {
    let gpu = Gpu { compute_capability: [9, 0], mig: Some(false), ..Gpu::numbered(1) };
    let fake = Fake::new(&Script { gpus: vec![Gpu::numbered(0), gpu.clone()], ..Script::default() });
    let nvml = fake.open().expect("open");
    assert_eq!(nvml.device_count().expect("asked"), 2);
    assert_eq!(nvml.sys_driver_version().expect("asked"), "570.124.06");
    assert_eq!(nvml.sys_cuda_driver_version().expect("asked"), 12_080);
    for device in [
        nvml.device_by_index(1),
        nvml.device_by_uuid(gpu.uuid.as_str()),
        nvml.device_by_pci_bus_id("0000:02:00.0"),
        nvml.device_by_pci_bus_id(gpu.pci_bus_id.as_str()),
    ] {
        assert_eq!(device.expect("found").index().expect("asked"), 1);
    }
    assert!(matches!(nvml.device_by_index(2), Err(NvmlError::InvalidArg)));
    assert!(matches!(nvml.device_by_uuid("GPU-none"), Err(NvmlError::NotFound)));

    let device = nvml.device_by_index(1).expect("found");
    assert_eq!(device.name().expect("asked"), gpu.name);
    assert_eq!(device.uuid().expect("asked"), gpu.uuid);
    assert_eq!(device.serial().expect("asked"), gpu.serial);
    assert_eq!(device.minor_number().expect("asked"), 1);
    let capability = device.cuda_compute_capability().expect("asked");
    assert_eq!((capability.major, capability.minor), (9, 0));
    let memory = device.memory_info().expect("asked");
    assert_eq!((memory.total, memory.used), (1 << 30, 64 << 20));
    assert_eq!(memory.free + memory.reserved + memory.used, memory.total);
    let pci = device.pci_info().expect("asked");
    assert_eq!((pci.bus, pci.domain, pci.bus_id.as_str()), (2, 0, "00000000:02:00.0"));
    assert_eq!(device.mig_mode().expect("asked").current, 0);
    assert!(matches!(nvml.device_by_index(0).expect("found").mig_mode(), Err(NvmlError::NotSupported)));
    assert_eq!(device.max_pcie_link_gen().expect("asked"), 4);
    assert_eq!(device.current_pcie_link_width().expect("asked"), 16);
    assert!(device.architecture().is_ok() && device.brand().is_ok() && device.vbios_version().is_ok());
    assert_eq!(device.num_cores().expect("asked"), 16 * 128);
}

#[test]
fn the_telemetry_follows_the_script_while_the_library_is_open() {
    let mut script = Script::default();
    let fake = Fake::new(&script);
    let nvml = fake.open().expect("open");
    let device = nvml.device_by_index(0).expect("found");
    assert_eq!(device.power_usage().expect("asked"), 31_500);

    let gpu = &mut script.gpus[0];
    gpu.power_mw = 299_000;
    gpu.energy_mj = 7;
    gpu.temperature_c = 88;
    gpu.throttle_reasons = 0x44;
    gpu.utilisation_percent = [97, 40];
    gpu.pcie_throughput_kbps = [1000, 2000];
    gpu.pcie_replays = 3;
    gpu.violation_ns = [11, 22];
    gpu.clocks_mhz[0] = 1500;
    gpu.max_clocks_mhz[0] = 1920; // with more than 128 steps the wrapper gives zeros
    fake.install(&script);
    assert_eq!(device.power_usage().expect("asked"), 299_000);
    assert_eq!(device.total_energy_consumption().expect("asked"), 7);
    assert_eq!(device.temperature(TemperatureSensor::Gpu).expect("asked"), 88);
    assert_eq!(device.temperature_threshold(TemperatureThreshold::Slowdown).expect("asked"), 95);
    let throttled = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    assert_eq!(device.current_throttle_reasons().expect("asked"), throttled);
    let load = device.utilization_rates().expect("asked");
    assert_eq!((load.gpu, load.memory), (97, 40));
    assert_eq!(device.clock_info(Clock::Graphics).expect("asked"), 1500);
    assert_eq!(device.max_clock_info(Clock::Memory).expect("asked"), 10_501);
    assert_eq!(device.pcie_throughput(PcieUtilCounter::Receive).expect("asked"), 2000);
    assert_eq!(device.pcie_replay_counter().expect("asked"), 3);
    assert_eq!(device.violation_status(PerformancePolicy::Thermal).expect("asked").violation_time, 22);
    assert_eq!(device.supported_memory_clocks().expect("asked"), [10_501, 405]);
    assert_eq!(device.supported_graphics_clocks(10_501).expect("asked").first(), Some(&1920));
}

#[test]
fn the_health_is_the_scripts() {
    let mut script = Script::default();
    script.gpus[0].recovery_action = 2;
    script.gpus[0].ecc = Some(Ecc {
        volatile: [1, 2],
        aggregate: [3, 4],
        remapped_rows: [5, 6],
        remap_pending: true,
        remap_failed: false,
        retired_pages: [1, 0],
    });
    let fake = Fake::new(&script);
    let nvml = fake.open().expect("open");
    let device = nvml.device_by_index(0).expect("found");
    let errors = |error, counter| device.total_ecc_errors(error, counter).expect("asked");
    assert_eq!(errors(MemoryError::Corrected, EccCounter::Volatile), 1);
    assert_eq!(errors(MemoryError::Uncorrected, EccCounter::Volatile), 2);
    assert_eq!(errors(MemoryError::Uncorrected, EccCounter::Aggregate), 4);
    assert!(device.is_ecc_enabled().expect("asked").currently_enabled);
    assert!(device.are_pages_pending_retired().expect("asked"));
    assert_eq!(field(&device, 230), Some(2), "the recovery action");
    assert_eq!((field(&device, 142), field(&device, 143), field(&device, 144)), (Some(5), Some(6), Some(1)));
    assert_eq!(field(&device, 9999), None);

    script.gpus[0].ecc = None;
    fake.install(&script);
    assert!(matches!(device.is_ecc_enabled(), Err(NvmlError::NotSupported)));
}

fn field(device: &nvml_wrapper::Device<'_>, id: u32) -> Option<i64> {
    use nvml_wrapper::enums::device::SampleValue;
    let mut values = device.field_values_for(&[FieldId(id)]).expect("asked");
    match values.remove(0).ok()?.value.ok()? {
        SampleValue::U32(value) => Some(i64::from(value)),
        SampleValue::U64(value) => i64::try_from(value).ok(),
        SampleValue::I64(value) => Some(value),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_set_holds_and_outlives_the_process_until_it_is_put_back() {
    let fake = Fake::new(&Script::default());
    let nvml = fake.open().expect("open");
    let mut device = nvml.device_by_index(0).expect("found");
    let bounds = device.power_management_limit_constraints().expect("asked");
    assert_eq!((bounds.min_limit, bounds.max_limit), (100_000, 350_000));
    assert_eq!(device.power_management_limit_default().expect("asked"), 300_000);
    assert_eq!((device.num_fans().expect("asked"), device.min_max_fan_speed().expect("asked")), (2, (20, 100)));

    device.set_power_management_limit(200_000).expect("set");
    device.set_gpu_locked_clocks(gpu_clocks(1200, 1400)).expect("set");
    device.set_fan_speed(1, 80).expect("set");
    device.set_compute_mode(ComputeMode::ExclusiveProcess).expect("set");
    device.set_persistent(true).expect("set");
    assert!(matches!(device.set_power_management_limit(99_999), Err(NvmlError::InvalidArg)));
    assert!(matches!(device.set_fan_speed(2, 80), Err(NvmlError::InvalidArg)));
    drop(nvml);

    let nvml = fake.open().expect("open again");
    let mut device = nvml.device_by_index(0).expect("found");
    assert_eq!(device.power_management_limit().expect("asked"), 200_000);
    assert_eq!(device.enforced_power_limit().expect("asked"), 200_000);
    assert_eq!(device.clock_info(Clock::SM).expect("asked"), 1200);
    assert_eq!((device.fan_speed(0).expect("asked"), device.fan_speed(1).expect("asked")), (30, 80));
    assert!(matches!(device.compute_mode().expect("asked"), ComputeMode::ExclusiveProcess));
    assert!(device.is_in_persistent_mode().expect("asked"));
    assert!(!fake.state().is_default());

    device.set_power_management_limit(300_000).expect("put back");
    device.reset_gpu_locked_clocks().expect("put back");
    device.set_default_fan_speed(1).expect("put back");
    device.set_compute_mode(ComputeMode::Default).expect("put back");
    device.set_persistent(false).expect("put back");
    assert!(fake.state().is_default());
    assert_eq!(fake.state().calls.len(), 10);
}

fn gpu_clocks(min_clock_mhz: u32, max_clock_mhz: u32) -> nvml_wrapper::enums::device::GpuLockedClocksSetting {
    nvml_wrapper::enums::device::GpuLockedClocksSetting::Numeric { min_clock_mhz, max_clock_mhz }
}

#[test]
fn a_driver_that_cannot_start_or_lost_its_gpu_says_so() {
    let mut script = Script::default();
    script.nvml.init = 9;
    let fake = Fake::new(&script);
    assert!(matches!(fake.open(), Err(NvmlError::DriverNotLoaded)));
    script.nvml.init = 18;
    fake.install(&script);
    assert!(matches!(fake.open(), Err(NvmlError::LibRmVersionMismatch)));

    script.nvml.init = 0;
    fake.install(&script);
    let nvml = fake.open().expect("open");
    let device = nvml.device_by_index(0).expect("found");
    script.gpus[0].lost = true;
    script.nvml.fail.insert("nvmlDeviceGetCount_v2".to_owned(), 999);
    fake.install(&script);
    assert!(matches!(device.power_usage(), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_index(0), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_count(), Err(NvmlError::Unknown)));
}

#[test]
fn a_missing_symbol_fails_its_call_and_no_other() {
    let script = Script { missing_symbols: vec!["nvmlDeviceGetPowerUsage".to_owned()], ..Script::default() };
    let fake = Fake::new(&script);
    let nvml = fake.open().expect("open");
    let device = nvml.device_by_index(0).expect("found");
    assert!(matches!(device.power_usage(), Err(NvmlError::FailedToLoadSymbol(_))));
    assert!(device.temperature(TemperatureSensor::Gpu).is_ok());
}

#[test]
fn the_soname_is_the_real_one() {
    let bytes = std::fs::read(built("fake_nvml").expect("built")).expect("readable");
    let soname = b"\0libnvidia-ml.so.1\0";
    assert!(bytes.windows(soname.len()).any(|window| window == soname));
}

//! What the binary prints for people and for the runner.

use cuda::messages::{Measured, Measuring, Probe};
use fake_gpu_script::{Gpu, Script};

use crate::world::World;

#[test]
fn a_probe_shows_every_gpu_and_what_is_mapped_for_them() {
    let world = World::new(&Script { gpus: vec![Gpu::numbered(0), Gpu::numbered(1)], ..Script::default() });
    let probe: Probe = world.prints("probe");
    assert_eq!((probe.why, probe.driver_version.map(|version| version.to_string())), (None, Some("12.8".to_owned())));
    assert_eq!(probe.libcuda.as_ref(), Some(&world.libcuda()));
    assert!(probe.mapped.contains(&world.libcuda()), "{:?}", probe.mapped);
    let uuids: Vec<_> = probe.devices.iter().map(|device| device.uuid.clone()).collect();
    assert_eq!(uuids, [Gpu::numbered(0).uuid, Gpu::numbered(1).uuid]);
    assert_eq!((probe.devices[0].compute_capability, probe.devices[0].vram_bytes), ((8, 9), 1 << 30));
}

#[test]
fn a_probe_without_a_driver_is_an_answer() {
    let probe: Probe = World::without_driver().prints("probe");
    assert_eq!((probe.libcuda, probe.driver_version, probe.devices), (None, None, vec![]));
    let why = probe.why.expect("a reason");
    assert!(why.contains("install the driver"), "{why}");
}

#[test]
fn a_probe_of_a_driver_that_does_not_begin_says_why() {
    let mut script = Script::default();
    script.cuda.init = 803;
    let probe: Probe = World::new(&script).prints("probe");
    assert!(probe.libcuda.is_some() && probe.devices.is_empty());
    let why = probe.why.expect("a reason");
    assert!(why.contains("(803)") && why.contains("reboot after an update"), "{why}");
}

#[test]
fn every_direction_is_measured() {
    let gpu = Gpu { vram_bytes: 256 << 20, vram_used_bytes: 0, ..Gpu::default() };
    let measured: Measured = World::new(&Script { gpus: vec![gpu], ..Script::default() }).prints("measure");
    assert!(measured.copied_bytes > 0 && measured.copied_bytes <= 64 << 20, "{measured:?}");
    for rate in [measured.device_copy_gb_s, measured.host_to_device_gb_s, measured.device_to_host_gb_s] {
        assert!(rate.is_finite() && rate >= 0.0, "{measured:?}");
    }
}

#[test]
fn whoever_starts_it_with_a_socket_is_told_there_what_was_measured_or_why_not() {
    let (healthy, without) = (World::healthy(), World::without_driver());
    let worker = healthy.start("measure");
    let Measuring::Measured(measured) = worker.receive() else { panic!("nothing was measured") };
    assert!(measured.copied_bytes > 0, "{measured:?}");
    assert!(worker.is_silent());
    assert_eq!(worker.end(), 0);

    let worker = without.start("measure");
    let Measuring::Failed { why } = worker.receive() else { panic!("it was measured") };
    assert!(why.contains("install the driver"), "{why}");
    assert_eq!(worker.end(), 4);
}

#[test]
fn nothing_is_measured_without_a_driver() {
    let mut script = Script::default();
    script.cuda.init = 100;
    for world in [World::without_driver(), World::new(&script)] {
        let output = world.output("measure");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("install the driver") || said.contains("no NVIDIA GPU is visible"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

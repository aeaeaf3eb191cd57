//! What fits and what does not, without building anything.

use super::*;

const VERSION: &str = "550.163.01";
const KERNEL: &str = "6.12.117+deb13-amd64";

fn driver() -> Driver {
    let settings = Settings {
        version: VERSION.to_owned(),
        for_kernel: KERNEL.to_owned(),
        modules: vec!["nvidia".to_owned(), "nvidia-uvm".to_owned()],
        workshop: vec!["tools".to_owned()],
        source: "source".to_owned(),
    };
    Driver { settings, patches: Vec::new(), epoch: 0 }
}

fn package(name: &str, version: &str, sha256: char) -> LockedPackage {
    LockedPackage {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: "amd64".to_owned(),
        suite: crate::lock::Suite::Main,
        path: format!("pool/main/x/{name}.deb"),
        bytes: 1,
        sha256: String::from(sha256).repeat(64),
    }
}

fn lock(tool: char, version: &str) -> Lock {
    let sets = [("tools", package("gcc", "14", tool)), ("source", package("nvidia-open-kernel-dkms", version, 'b'))];
    Lock { sets: sets.into_iter().map(|(set, package)| (set.to_owned(), vec![package])).collect() }
}

#[test]
fn the_release_pairs_its_driver_with_its_kernel() {
    let repository = Definition::repository(Path::new(env!("CARGO_MANIFEST_DIR"))).expect("the repository");
    let definition = Definition::read(&repository, NAME).expect("the flavour");
    let driver = Driver::of(&definition).expect("a pair").expect("a driver");
    assert_eq!(driver.settings.for_kernel, definition.kernel());
    let generic = Definition::read(&repository, "generic").expect("the flavour");
    assert!(Driver::of(&generic).expect("a definition").is_none());
}

#[test]
fn whatever_goes_into_the_modules_names_their_place_in_the_cache() {
    let base = driver().key(&lock('a', VERSION)).expect("a key");
    assert!(base.starts_with("550.163.01-6.12.117+deb13-amd64-"), "{base}");
    assert_eq!(base, driver().key(&lock('a', VERSION)).expect("a key"));
    assert_ne!(base, driver().key(&lock('c', VERSION)).expect("a key"));
    let mut others = [driver(), driver(), driver()];
    others[0].epoch = 1;
    others[1].settings.modules.pop();
    let text = "Driver: 550.163.01\n\nWhy.\n\n--- a/x\n";
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("0001.patch"), text).expect("write");
    others[2].patches = patches::chosen(folder.path(), VERSION, KERNEL).expect("a patch");
    for other in others {
        assert_ne!(base, other.key(&lock('a', VERSION)).expect("a key"));
    }
}

#[test]
fn a_module_of_nobody_is_refused() {
    let module = Module { name: "nvidia".to_owned(), bytes: b"\x7fELF".to_vec() };
    let refused = driver().fitting(module).expect_err("a misfit");
    assert_eq!(refused.to_string(), "the built nvidia says version \"\", and should say \"550.163.01\"");
}

#[test]
fn debians_parts_of_a_version_do_not_count() {
    for (version, expected) in
        [("550.163.01-2", VERSION), ("1:550.163.01-2~bpo1", VERSION), ("12.4", "12.4"), ("1:2-3-4", "2-3")]
    {
        assert_eq!(upstream(version), expected, "{version}");
    }
}

#[test]
fn modules_are_installed_signed_where_there_is_a_key() {
    let root = tempfile::tempdir().expect("a folder");
    let modules = [Module { name: "nvidia".to_owned(), bytes: b"\x7fELF".to_vec() }];
    let signer = Pair::make("test").expect("a key");
    for signer in [None, Some(&signer)] {
        let installed = driver().install(root.path(), &modules, signer).expect("files");
        let file = &installed["nvidia"];
        assert_eq!(file, Path::new("usr/lib/modules/6.12.117+deb13-amd64/updates/nvidia.ko"));
        let bytes = fs::read(root.path().join(file)).expect("read");
        assert!(bytes.starts_with(&modules[0].bytes) && is_signed(&bytes) == signer.is_some());
    }
}

#[test]
fn the_group_that_may_open_the_nodes_is_the_daemons_everywhere() {
    let read = |file: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file);
    let groups = read("root/etc/group");
    let group = groups.lines().find_map(|line| line.strip_prefix("nvidia-persistenced:x:")).expect("a group");
    let group = group.trim_end_matches(':');
    let after = |file: &str, word: &str| {
        let text = read(file);
        let rest = text.split(word).nth(1).unwrap_or_default();
        rest.split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(after("root-nvidia/etc/modprobe.d/nvidia.conf", "NVreg_DeviceFileGID="), group);
    assert_eq!(after("root-nvidia/usr/lib/systemd/system/rig-gpu.service", "gpu --group "), group);
}

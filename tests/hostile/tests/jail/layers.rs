//! Sealed layers: shared, stacked, kept, collected, and what becomes of damaged ones.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostile::oci::{self, Layer, Pack};
use hostile::rig::{MAIN, Rig, Setup, name, refusal, service, spec, wait_for};
use runner::protocol::{Digest, Exit, Refusal};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tar::EntryType;

use crate::seen::{Seen, layers};

fn count(rig: &Rig, dir: &str) -> usize {
    std::fs::read_dir(rig.state(dir)).expect("list").count()
}

/// Runs `script` in an image until it ends; answers how.
fn ran(rig: &Rig, source: &str, manifest: &Digest, script: &str) -> Exit {
    let source = name(source);
    rig.open(&source);
    rig.start(&source, manifest, spec(&["/bin/sh", "-c", script]));
    let ended = rig.ended(&source);
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    ended.exit
}

#[test]
fn two_images_share_a_layer_as_one_file() {
    let rig = Rig::new();
    let layer = |path: &str| (Layer::new().file(path, 0o644, path.as_bytes()).finish(), Pack::Gzip);
    let first = oci::image(&rig.content(), &[layer("common"), layer("one")], "{}");
    let second = oci::image(&rig.content(), &[layer("common"), layer("other")], "{}");
    assert_eq!(rig.client.prepare(&name("a"), &first).expect("prepare").bytes, 9);
    let common = layers(&rig, &first)[0].clone();
    let before = std::fs::metadata(&common).expect("stat");
    assert_eq!((before.permissions().mode() & 0o7777, before.uid(), before.gid()), (0o444, 0, 0));
    let prepared = rig.client.prepare(&name("b"), &second).expect("prepare");
    assert_eq!((prepared.bytes, prepared.already), (5, false));
    assert_eq!(layers(&rig, &second)[0], common);
    assert_eq!(std::fs::metadata(&common).expect("stat").ino(), before.ino());
    assert_eq!((count(&rig, "layers"), count(&rig, "unpack")), (3, 0));
    assert!(rig.client.prepare(&name("c"), &first).expect("prepare").already);
}

#[test]
fn a_layer_is_the_same_file_whoever_makes_it() {
    let layer = Layer::new()
        .dir("d")
        .file("d/f", 0o600, b"x")
        .owned_file("d/o", 77, 0o000)
        .file("d/.wh.g", 0o644, b"")
        .file("e/.wh..wh..opq", 0o644, b"")
        .link(EntryType::Symlink, "l", "d")
        .finish();
    let sealed = |source: &str, before: &[&str]| {
        let rig = Rig::new();
        for (number, source) in before.iter().enumerate() {
            let other = Layer::new().file(&number.to_string(), 0o644, b"").finish();
            let manifest = oci::image(&rig.content(), &[(other, Pack::Plain)], "{}");
            rig.client.prepare(&name(source), &manifest).expect("prepare");
        }
        let manifest = oci::image(&rig.content(), &[(layer.clone(), Pack::Zstd)], "{}");
        rig.client.prepare(&name(source), &manifest).expect("prepare");
        std::fs::read(&layers(&rig, &manifest)[0]).expect("a layer")
    };
    // Another slot, another time, another directory.
    assert!(sealed("a", &[]) == sealed("b", &["x", "y"]));
}

#[test]
fn one_layer_is_made_once_however_many_ask() {
    let rig = Rig::new();
    let layer = Layer::new().file("large", 0o644, &vec![7; 8 << 20]).finish();
    let manifest = oci::image(&rig.content(), &[(layer, Pack::Plain)], "{}");
    let made: Vec<bool> = std::thread::scope(|scope| {
        let ask = |number: u32| {
            let (rig, manifest) = (&rig, &manifest);
            scope.spawn(move || rig.client.prepare(&name(&format!("s{number}")), manifest).expect("prepare").already)
        };
        let asked: Vec<_> = (0..8).map(ask).collect();
        asked.into_iter().map(|asked| asked.join().expect("a thread")).collect()
    });
    assert_eq!(made.iter().filter(|already| !**already).count(), 1, "{made:?}");
}

#[test]
fn what_a_layer_hides_is_hidden_from_below_and_never_its_own() {
    let rig = Rig::new();
    let mut bottom = Layer::new();
    for path in ["gone", "kept", "dir/below", "before/below", "after/below", "opaque/below", "late/below", "was/below"]
    {
        bottom = bottom.file(path, 0o644, b"below");
    }
    let top = Layer::new()
        .file(".wh.gone", 0o644, b"")
        .file(".wh.dir", 0o644, b"")
        // Hidden, then made again, and the other way round.
        .file(".wh.before", 0o644, b"")
        .file("before/mine", 0o644, b"mine")
        .file("after/mine", 0o644, b"mine")
        .file(".wh.after", 0o644, b"")
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("opaque/mine", 0o644, b"mine")
        .file("late/mine", 0o644, b"mine")
        .file("late/.wh..wh..opq", 0o644, b"")
        .file("mine", 0o644, b"mine")
        .file(".wh.mine", 0o644, b"")
        // A file takes the place of a directory, and gives it back to another.
        .file("was", 0o644, b"mine")
        .dir("was");
    let image = [(bottom.finish(), Pack::Gzip), (top.finish(), Pack::Gzip)];
    let manifest = oci::image(&rig.content(), &image, "{}");
    rig.client.prepare(&name("a"), &manifest).expect("prepare");
    let seen = Seen::of(&rig, &manifest);
    let gone = ["gone", "dir", "before/below", "after/below", "opaque/below", "late/below", "was/below"];
    for path in gone.into_iter().chain([".wh.gone", "opaque/.wh..wh..opq"]) {
        assert!(seen.path(path).symlink_metadata().is_err(), "{path}");
    }
    for path in ["kept", "before/mine", "after/mine", "opaque/mine", "late/mine", "mine", "was"] {
        assert!(seen.path(path).exists(), "{path}");
    }
    let listed: Vec<_> = std::fs::read_dir(seen.path("opaque")).expect("list").flatten().collect();
    assert_eq!(listed.len(), 1, "{listed:?}");
}

#[test]
fn a_jail_sees_what_its_layers_show_with_the_ids_of_the_image() {
    let rig = Rig::new();
    let source = name("a");
    // Another source first, so that the slot is not the first.
    let _ = rig.prepared(&name("other"));
    let below = Layer::new().file("below", 0o644, b"").finish();
    let above = Layer::new().owned_file("mine", 1000, 0o600).owned_file("theirs", 1001, 0o600);
    let above = above.file(".wh..wh..opq", 0o644, b"").finish();
    let programs = oci::host_programs(&[]);
    let image = [(&below, Pack::Gzip), (&*programs, Pack::Plain)];
    let shown = oci::image(&rig.content(), &image, "{}");
    rig.client.prepare(&source, &shown).expect("prepare");
    assert_eq!(ran(&rig, "a", &shown, "[ -e /below ]"), Exit::Code(0));
    // An opaque root hides every layer below it.
    let image = [(&below, Pack::Gzip), (&above, Pack::Gzip), (&*programs, Pack::Plain)];
    let hidden = oci::image(&rig.content(), &image, r#"{"User":"app"}"#);
    rig.client.prepare(&source, &hidden).expect("prepare");
    let script = "[ ! -e /below ] && [ -O /mine ] && cat /mine && [ ! -O /theirs ] && ! cat /theirs";
    assert_eq!(ran(&rig, "a", &hidden, script), Exit::Code(0));
}

#[test]
fn an_image_of_a_hundred_layers_runs() {
    let rig = Rig::new();
    let layer = |number: u32| Layer::new().file(&format!("n/{number}"), 0o644, b"").finish();
    let manifest = rig.prepared_with(&name("a"), &(1..100).map(layer).collect::<Vec<_>>());
    let script = "set -- /n/*; [ $# = 99 ] || exit 1; while :; do sleep 1000; done";
    let source = name("a");
    rig.open(&source);
    rig.start(&source, &manifest, spec(&["/bin/sh", "-c", script]));
    assert_eq!(rig.mounted_layers(), 200);
    // The same layers for another slot: only the mapped ones are more.
    let other = name("b");
    rig.client.prepare(&other, &manifest).expect("prepare");
    rig.open(&other);
    rig.start(&other, &manifest, spec(&["/bin/sh", "-c", script]));
    assert_eq!(rig.mounted_layers(), 300);
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    assert_eq!(rig.mounted_layers(), 200);
    rig.client.stop(&other, Duration::ZERO).expect("stop");
    assert_eq!(rig.mounted_layers(), 0);
    assert_eq!(ran(&rig, "a", &manifest, "set -- /n/*; exit $#"), Exit::Code(99));
    assert_eq!(count(&rig, "m"), 1);
    assert_eq!(count(&rig, "m/base"), 0);
}

#[test]
fn an_image_may_lay_a_layer_over_itself() {
    let rig = Rig::new();
    let layer = |text: &[u8]| Layer::new().file("f", 0o644, text).finish();
    let manifest = rig.prepared_with(&name("a"), &[layer(b"1"), layer(b"2"), layer(b"1")]);
    assert_eq!(ran(&rig, "a", &manifest, "exit $(cat /f)"), Exit::Code(1));
}

/// How many processes of this command line there are.
fn running(command: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("procfs").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).replace('\0', " ").trim_end() == command).count()
}

#[test]
fn a_runner_that_was_killed_at_it_leaves_no_half_layer() {
    // The number is this test's alone, and the sealing never ends.
    let mut rig = Setup::default().sealer("#!/bin/sh\nexec sleep 86017\n").start();
    let layer = Layer::new().file("large", 0o644, &vec![7; 64 << 20]).finish();
    let manifest = oci::image(&rig.content(), &[(layer, Pack::Plain)], "{}");
    let client = runner::client::Client::new(rig.path("runner.sock"));
    let asked = std::thread::spawn({
        let manifest = manifest.clone();
        move || client.prepare(&name("a"), &manifest)
    });
    wait_for("the sealing", || (running("sleep 86017") == 1).then_some(()));
    assert_eq!((count(&rig, "layers"), count(&rig, "unpack")), (0, 1));
    rig.kill_runner();
    assert!(asked.join().expect("a thread").is_err());
    wait_for("the sealing to die", || (running("sleep 86017") == 0).then_some(()));
    rig.start_runner_as(Setup::default());
    assert_eq!((count(&rig, "layers"), count(&rig, "unpack")), (0, 0));

    // And once more while it is being unpacked, which takes a moment.
    let client = runner::client::Client::new(rig.path("runner.sock"));
    let asked = std::thread::spawn({
        let manifest = manifest.clone();
        move || client.prepare(&name("a"), &manifest)
    });
    wait_for("the unpacking", || (count(&rig, "unpack") == 1).then_some(()));
    rig.kill_runner();
    let _ = asked.join().expect("a thread");
    rig.start_runner();
    assert_eq!(count(&rig, "unpack"), 0);
    // Whole or not at all, whichever moment that was.
    let stood = count(&rig, "layers") == 1;
    assert_eq!(rig.client.prepare(&name("a"), &manifest).expect("prepare").already, stood);
    assert_eq!((count(&rig, "layers"), count(&rig, "unpack")), (1, 0));
}

#[test]
fn what_is_held_is_never_collected_and_what_is_not_goes() {
    let rig = Rig::with(&["--cache-bytes-max", "1"]);
    let source = name("a");
    let running = rig.prepared(&source);
    let script = "while :; do [ -e /probe ] && cat /etc/passwd; sleep 0.01; done";
    rig.open(&source);
    rig.start(&source, &running, spec(&["/bin/sh", "-c", script]));
    let image = |text: &[u8]| {
        let layer = Layer::new().file("f", 0o644, text).finish();
        oci::image(&rig.content(), &[(layer, Pack::Plain)], "{}")
    };
    let (first, second) = (image(b"1"), image(b"2"));
    rig.client.prepare(&name("b"), &first).expect("prepare");
    rig.client.prepare(&name("b"), &second).expect("prepare");
    let stands = |manifest: &Digest| layers(&rig, manifest)[0].exists();
    assert!(stands(&running) && !stands(&first) && stands(&second));
    rig.open(&name("b"));
    let started = rig.client.start(&name("b"), &service(MAIN), &first, spec(&["/x"]));
    assert_eq!(refusal(started), Refusal::NotPrepared { manifest: first.clone() });
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.client.prepare(&name("b"), &first).expect("prepare");
    assert!(!stands(&running) && stands(&first) && !stands(&second));
    rig.client.prepare(&source, &running).expect("prepare");
    assert_eq!(ran(&rig, "a", &running, "exit 4"), Exit::Code(4));
}

#[test]
fn a_damaged_layer_is_made_again_or_does_no_harm() {
    let mut rig = Rig::new();
    let source = name("a");
    let manifest = rig.prepared(&source);
    let path = layers(&rig, &manifest)[0].clone();
    let sound = std::fs::read(&path).expect("a layer");
    let start = |rig: &Rig| rig.client.start(&source, &service(MAIN), &manifest, spec(&["/bin/true"]));
    rig.open(&source);
    let flipped = |at: usize| {
        let mut image = sound.clone();
        image[at] ^= 1;
        image
    };
    let cut = sound[..sound.len() / 2].to_vec();
    for (what, image) in [("cut", cut), ("no magic", flipped(1024)), ("checksum", flipped(1028))] {
        std::fs::write(&path, &image).expect("write");
        assert!(matches!(refusal(start(&rig)), Refusal::NotPrepared { .. }), "{what}");
        assert!(!path.exists(), "{what}");
        assert!(!rig.client.prepare(&source, &manifest).expect("prepare").already, "{what}");
        assert!(std::fs::read(&path).expect("a layer") == sound, "{what}");
        assert_eq!(rig.mounted_layers(), 0);
    }
    // Preparing again finds it as well as starting does.
    std::fs::write(&path, &sound[..5000]).expect("write");
    assert!(!rig.client.prepare(&source, &manifest).expect("prepare").already);
    assert!(std::fs::read(&path).expect("a layer") == sound);
    // What only reading can tell, the jail hears; the runner does not suffer by it.
    for fill in [0x00, 0xFF] {
        let mut image = sound.clone();
        image[4096..].fill(fill);
        std::fs::write(&path, &image).expect("write");
        rig.open(&source);
        if start(&rig).is_ok() {
            let _ = rig.ended(&source);
        }
        rig.client.stop(&source, Duration::ZERO).expect("stop");
        assert!(rig.client.list().expect("list").is_empty());
        assert_eq!(rig.mounted_layers(), 0);
        let _ = std::fs::remove_file(&path);
        rig.client.prepare(&source, &manifest).expect("prepare");
    }
    rig.kill_runner();
    std::fs::write(&path, &sound[..5000]).expect("write");
    rig.start_runner();
    assert!(!path.exists());
}

#[test]
fn the_program_that_seals_sees_nothing_but_what_it_needs() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port of the host");
    let port = listener.local_addr().expect("an address").port();
    let rig = Setup::default()
        .sealer(&format!(
            r#"#!/bin/sh
        echo "root" /* >&2
        echo "is $(id -u) $(id -g) $$" >&2
        for dir in / /usr /tree; do (: > $dir/x) 2>&- && echo "wrote $dir" >&2; done
        bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>&- && echo connected >&2
        chown 5 /layer 2>&- && echo chowned >&2
        mount -t tmpfs none /tree 2>&- && echo mounted >&2
        unshare -U true 2>&- && echo unshared >&2
        cat /tree/secret >&2 && echo read >&2
        exit 3"#
        ))
        .start();
    let layer = Layer::new().owned_file("secret", 77, 0o000).finish();
    let manifest = oci::image(&rig.content(), &[(layer, Pack::Plain)], "{}");
    let detail = match refusal(rig.client.prepare(&name("a"), &manifest)) {
        Refusal::Internal { detail } => detail,
        other => panic!("{other}"),
    };
    let said: Vec<&str> = detail.split("\\n").collect();
    let (root, rest) = said.split_first().expect("a first line");
    assert!(root.starts_with("mkfs.erofs ended with Code(3): root "), "{detail}");
    let known = ["/bin", "/lib", "/lib32", "/lib64", "/sbin", "/layer", "/tree", "/usr"];
    let seen = root.split(' ').skip_while(|word| *word != "root").skip(1);
    assert!({ seen }.all(|name| known.contains(&name)), "{detail}");
    assert_eq!(rest, ["is 0 0 1", "read"], "{detail}");
    assert_eq!((count(&rig, "layers"), count(&rig, "unpack")), (0, 0));
}

#[test]
fn what_the_program_that_seals_puts_in_place_of_an_image_is_not_kept() {
    // What a layer that took it over might write: nothing, too much, something else.
    for script in ["exit 0", "echo garbage > /layer", "rm /layer || exit 0", "head -c 10000000 /usr/bin/bash > /layer"]
    {
        let rig = Setup::default().sealer(&format!("#!/bin/sh\n{script}\nexit 0\n")).start();
        let layer = Layer::new().file("f", 0o644, b"x").finish();
        let manifest = oci::image(&rig.content(), &[(layer, Pack::Plain)], "{}");
        assert!(matches!(refusal(rig.client.prepare(&name("a"), &manifest)), Refusal::Internal { .. }), "{script}");
        assert_eq!((count(&rig, "layers"), count(&rig, "unpack")), (0, 0), "{script}");
    }
}

/// A small file system for the runner's state.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(path).expect("mkdir");
        let options = std::ffi::CString::new(format!("size={bytes}")).expect("no zero");
        mount("small", path, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).expect("mount");
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_leaves_nothing_of_a_layer() {
    // Memory is no disk whose rate could be limited.
    let mut rig = Rig::with(&["--job-disk-rate", "0"]);
    rig.kill_runner();
    let _disk = SmallDisk::at(&rig.state(""), 12 << 20);
    rig.start_runner();
    let image = |megabytes: usize| {
        let layer = Layer::new().file("large", 0o644, &vec![7; megabytes << 20]).finish();
        oci::image(&rig.content(), &[(layer, Pack::Plain)], "{}")
    };
    // The first does not fit; the second does, but not beside its sealed form.
    for (megabytes, said) in [(16, "no space to unpack"), (8, "mkfs.erofs")] {
        match refusal(rig.client.prepare(&name("a"), &image(megabytes))) {
            Refusal::Internal { detail } => assert!(detail.contains(said), "{detail}"),
            other => panic!("{other}"),
        }
        assert_eq!((count(&rig, "layers"), count(&rig, "unpack")), (0, 0), "{megabytes}");
    }
    rig.client.prepare(&name("a"), &image(4)).expect("prepare");
}

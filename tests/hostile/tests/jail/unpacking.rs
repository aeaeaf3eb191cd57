//! What becomes of images, above all of hostile ones.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use hostile::oci::{self, Layer, Pack};
use hostile::rig::{Rig, name, refusal};
use runner::protocol::{Digest, Refusal};
use tar::EntryType;

use crate::seen::Seen;

fn unpacked(rig: &Rig, layers: &[(Vec<u8>, Pack)]) -> Seen {
    let manifest = oci::image(&rig.content(), layers, "{}");
    rig.client.prepare(&name("a"), &manifest).expect("prepare");
    Seen::of(rig, &manifest)
}

fn refused(rig: &Rig, layer: Vec<u8>) -> String {
    let manifest = oci::image(&rig.content(), &[(layer, Pack::Gzip)], "{}");
    match refusal(rig.client.prepare(&name("a"), &manifest)) {
        Refusal::BadImage { detail } => {
            for dir in ["layers", "unpack"] {
                assert_eq!(std::fs::read_dir(rig.state(dir)).expect("list").count(), 0, "{dir}");
            }
            detail
        }
        other => panic!("{other}"),
    }
}

#[test]
fn layers_of_every_packing_are_laid_over_each_other() {
    let rig = Rig::new();
    let bottom = Layer::new().dir("d").file("d/a", 0o4755, b"old").file("d/b", 0o644, b"b").file("e/f/g", 0o644, b"g");
    let middle = Layer::new().file("d/a", 0o640, b"new").link(EntryType::Link, "d/hard", "d/a");
    let top = Layer::new()
        .file("d/.wh.b", 0o644, b"")
        .file("e/kept", 0o644, b"k")
        .file("e/.wh..wh..opq", 0o644, b"")
        .link(EntryType::Symlink, "d/soft", "/d/a")
        .special(EntryType::Fifo, "d/fifo")
        .special(EntryType::Char, "d/device");
    let layers = [(bottom.finish(), Pack::Plain), (middle.finish(), Pack::Gzip), (top.finish(), Pack::Zstd)];
    let root = unpacked(&rig, &layers);
    assert_eq!(std::fs::read(root.path("d/a")).expect("read"), b"new");
    let a = std::fs::metadata(root.path("d/a")).expect("stat");
    assert_eq!((a.permissions().mode() & 0o7777, a.nlink(), a.mtime()), (0o640, 2, 1_000_000_000));
    assert_eq!((a.uid(), a.gid()), (0, 0));
    assert_eq!(std::fs::read_link(root.path("d/soft")).expect("a link"), PathBuf::from("/d/a"));
    for gone in ["d/b", "e/f", "d/fifo", "d/device", "d/.wh.b", "e/.wh..wh..opq"] {
        assert!(root.path(gone).symlink_metadata().is_err(), "{gone}");
    }
    assert!(root.path("e/kept").exists());
}

#[test]
fn set_uid_bits_do_not_survive() {
    let rig = Rig::new();
    let root = unpacked(&rig, &[(Layer::new().file("a", 0o6755, b"x").finish(), Pack::Gzip)]);
    assert_eq!(std::fs::metadata(root.path("a")).expect("stat").permissions().mode() & 0o7777, 0o755);
}

#[test]
fn preparing_again_unpacks_nothing() {
    let rig = Rig::new();
    let layer = Layer::new().file("a", 0o644, b"12345").finish();
    let manifest = oci::image(&rig.content(), &[(layer, Pack::Gzip)], "{}");
    let first = rig.client.prepare(&name("a"), &manifest).expect("prepare");
    assert_eq!((first.bytes, first.entries, first.already), (5, 1, false));
    assert!(rig.client.prepare(&name("a"), &manifest).expect("prepare").already);
}

#[test]
fn an_entry_that_climbs_is_refused_by_name() {
    let rig = Rig::new();
    for path in ["../outside", "a/../../outside", "a/.."] {
        let detail = refused(&rig, Layer::new().file(path, 0o644, b"x").finish());
        assert!(detail.contains(path) && detail.contains(".."), "{detail}");
    }
    let detail = refused(&rig, Layer::new().link(EntryType::Link, "a", "../../etc/passwd").finish());
    assert!(detail.contains("etc/passwd"), "{detail}");
    assert!(!rig.state("unpack/outside").exists() && !rig.state("outside").exists());
}

#[test]
fn an_entry_behind_a_link_to_the_host_lands_in_the_image() {
    let rig = Rig::new();
    let outside = rig.path("outside");
    std::fs::create_dir(&outside).expect("mkdir");
    let target = outside.to_str().expect("text").to_owned();
    let layer = Layer::new()
        .dir(&target[1..])
        .link(EntryType::Symlink, "out", &target)
        .file("out/file", 0o644, b"x")
        .file("/absolute", 0o644, b"y")
        .finish();
    let root = unpacked(&rig, &[(layer, Pack::Gzip)]);
    assert_eq!(std::fs::read_dir(&outside).expect("list").count(), 0);
    assert!(root.path(&target[1..]).join("file").exists() && root.path("absolute").exists());
    assert!(!std::path::Path::new("/absolute").exists());
}

#[test]
fn a_bomb_is_refused_before_it_is_written() {
    let rig = Rig::new();
    let detail = refused(&rig, Layer::new().file("zeroes", 0o644, &vec![0; 100 << 20]).finish());
    assert!(detail.contains("expands more than 200 times"), "{detail}");
}

#[test]
fn an_image_of_too_many_layers_is_refused() {
    let rig = Rig::new();
    let layers: Vec<_> = (0..129).map(|_| (Layer::new().finish(), Pack::Plain)).collect();
    let manifest = oci::image(&rig.content(), &layers, "{}");
    match refusal(rig.client.prepare(&name("a"), &manifest)) {
        Refusal::BadImage { detail } => assert!(detail.contains("129 layers"), "{detail}"),
        other => panic!("{other}"),
    }
    let manifest = oci::image(&rig.content(), &layers[..128], "{}");
    assert_eq!(rig.client.prepare(&name("a"), &manifest).expect("prepare").entries, 0);
}

#[test]
fn an_image_beyond_its_bytes_is_refused() {
    let rig = Rig::with(&["--unpacked-bytes-max", "1000000"]);
    let detail = refused(&rig, Layer::new().file("large", 0o644, &vec![7; 2_000_000]).finish());
    assert!(detail.contains("more bytes"), "{detail}");
    // All layers count, those that stand as well.
    let layer = |path: &str| (Layer::new().file(path, 0o644, &vec![7; 600_000]).finish(), Pack::Plain);
    let manifest = oci::image(&rig.content(), &[layer("a")], "{}");
    rig.client.prepare(&name("a"), &manifest).expect("prepare");
    let manifest = oci::image(&rig.content(), &[layer("a"), layer("b")], "{}");
    match refusal(rig.client.prepare(&name("b"), &manifest)) {
        Refusal::BadImage { detail } => assert!(detail.contains("layer 1: more bytes"), "{detail}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_hole_is_no_way_around_the_bounds() {
    let rig = Rig::new();
    let file = rig.path("sparse");
    std::fs::File::create(&file).and_then(|file| file.set_len(4 << 30)).expect("a sparse file");
    let tar = Command::new("tar")
        .args(["--format=gnu", "--sparse", "-C"])
        .arg(rig.path(""))
        .args(["-cf", "-", "sparse"])
        .output();
    let layer = tar.expect("tar").stdout;
    assert!(layer.len() < 1 << 20, "{}", layer.len());
    assert!(refused(&rig, layer).contains("expands more than 200 times"));
}

#[test]
fn a_hard_link_reaches_nothing_but_its_own_layer() {
    let rig = Rig::new();
    let bottom = Layer::new().file("below", 0o644, b"x").finish();
    for top in [
        Layer::new().link(EntryType::Link, "a", "below"),
        Layer::new().file(".wh.below", 0o644, b"").link(EntryType::Link, "a", "below"),
        Layer::new().link(EntryType::Link, "a", "no/where"),
    ] {
        let manifest = oci::image(&rig.content(), &[(bottom.clone(), Pack::Gzip), (top.finish(), Pack::Gzip)], "{}");
        match refusal(rig.client.prepare(&name("a"), &manifest)) {
            Refusal::BadImage { detail } => assert!(detail.contains("not in its own layer"), "{detail}"),
            other => panic!("{other}"),
        }
    }
    let detail = refused(&Rig::new(), Layer::new().dir("d").link(EntryType::Link, "a", "d").finish());
    assert!(detail.contains("a hard link to a directory"), "{detail}");
}

#[test]
fn links_make_no_tree_deeper_than_a_path_may_be() {
    let rig = Rig::new();
    let deep = "a/".repeat(40);
    let mut layer = Layer::new().dir(&deep).link(EntryType::Symlink, "l0", &deep);
    for link in 0..8 {
        let further = format!("l{link}/{deep}");
        layer = layer.dir(&further).link(EntryType::Symlink, &format!("l{}", link + 1), &further);
    }
    let detail = refused(&rig, layer.finish());
    assert!(detail.contains("more than 256 directories in what its path leads to"), "{detail}");
    let detail = refused(&rig, Layer::new().link(EntryType::Symlink, "l", "gone").file("l/f", 0o644, b"").finish());
    assert!(detail.contains("a link that leads nowhere"), "{detail}");
    let detail = refused(&rig, Layer::new().file("f", 0o644, b"").file("f/g", 0o644, b"").finish());
    assert!(detail.contains("a file in its path"), "{detail}");
}

#[test]
fn a_directory_that_is_only_implied_counts_as_an_entry() {
    let rig = Rig::new();
    let layer = Layer::new().file("a/b/c", 0o644, b"").dir("a").finish();
    let manifest = oci::image(&rig.content(), &[(layer, Pack::Gzip)], "{}");
    assert_eq!(rig.client.prepare(&name("a"), &manifest).expect("prepare").entries, 4);
}

#[test]
fn a_blob_that_is_not_what_its_name_says_is_refused() {
    let rig = Rig::new();
    let layers = [(Layer::new().file("a", 0o644, b"x").finish(), Pack::Gzip)];
    let wrong = format!("sha256:{}", "0".repeat(64));
    let manifest = oci::image_with_diff_ids(&rig.content(), &layers, "{}", |_| wrong.clone());
    match refusal(rig.client.prepare(&name("a"), &manifest)) {
        Refusal::DigestMismatch { object, expected, found } => {
            assert_eq!((object.as_str(), expected.to_string()), ("layer 0", wrong));
            assert_eq!(found.to_string(), oci::digest(&layers[0].0));
        }
        other => panic!("{other}"),
    }
    let manifest = oci::image(&rig.content(), &layers, "{}");
    let path = rig.content().join("blobs/sha256").join(manifest.hex());
    let mut bytes = std::fs::read(&path).expect("read");
    bytes.push(b' ');
    std::fs::write(&path, bytes).expect("write");
    match refusal(rig.client.prepare(&name("a"), &manifest)) {
        Refusal::DigestMismatch { object, .. } => assert_eq!(object, "manifest"),
        other => panic!("{other}"),
    }
}

#[test]
fn garbage_and_missing_blobs_are_refused() {
    let rig = Rig::new();
    assert!(!refused(&rig, b"not a tar at all, but long enough to be read as one".repeat(30)).is_empty());
    let absent: Digest = format!("sha256:{}", "1".repeat(64)).parse().expect("a digest");
    match refusal(rig.client.prepare(&name("b"), &absent)) {
        Refusal::BlobMissing { digest } => assert_eq!(digest, absent),
        other => panic!("{other}"),
    }
}

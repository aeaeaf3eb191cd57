//! 47: layers that write outside the image.

use hostile::guard::{Guard, bottom, names, stranger};
use hostile::raw_tar::{RawTar, kind};
use rustix::fs::FileType;

/// Links that lead from an image's root to a directory of the host, in every spelling.
fn ways_out(guard: &Guard) -> Vec<String> {
    let canary = guard.canary_path();
    let up = "../".repeat(24);
    vec![
        canary.clone(),
        format!("/..{canary}"),
        format!("{up}{}", &canary[1..]),
        format!("/proc/self/root{canary}"),
        format!("/proc/1/root{canary}"),
        format!("/proc/self/cwd{canary}"),
        "/proc/self/fd/3".to_owned(),
        "..".to_owned(),
        "/".to_owned(),
        "../canary".to_owned(),
        "../../canary".to_owned(),
        "../../../canary".to_owned(),
    ]
}

/// A directory of the host, not below `/tmp`: of that every jail has its own, which would cover the image's.
fn outside_tmp() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").expect("a directory")
}

/// A link of any length; the header has room for 100 bytes.
fn symlink(tar: RawTar, name: &str, target: &str) -> RawTar {
    tar.long(b'K', target.as_bytes()).link(kind::SYMLINK, name.as_bytes(), b"")
}

fn hard_link(tar: RawTar, name: &str, target: &str) -> RawTar {
    tar.long(b'K', target.as_bytes()).link(kind::HARD_LINK, name.as_bytes(), b"")
}

#[test]
fn attack_47_a_path_that_climbs_is_refused_by_name() {
    let guard = Guard::new();
    for path in
        ["../out", "a/../../out", "./../out", "a/..", "a/b/../../../out", "..", "/../out", "a/./../../out", "../"]
    {
        for kind in [kind::FILE, kind::DIR, kind::SYMLINK, kind::FIFO] {
            let refused = guard.refuses_layer(RawTar::new().link(kind, path.as_bytes(), b"x").finish());
            assert!(refused.detail.contains("'..' in its path"), "{path}: {}", refused.detail);
        }
    }
    guard.unharmed();
}

#[test]
fn attack_47_an_absolute_path_lands_in_the_image() {
    let guard = Guard::new();
    let place = outside_tmp();
    let victim = format!("{}/victim", place.path().display());
    let layer = RawTar::new()
        .long(b'L', victim.as_bytes())
        .file(b"", b"mine")
        .file(b"/absolute", b"mine")
        .file(b"//twice//absolute", b"mine")
        .file(b"/etc/shadow", b"mine")
        .finish();
    let seen = guard.seen(&[layer]);
    for path in [victim.as_str(), "absolute", "twice/absolute", "etc/shadow"] {
        assert_eq!(seen.read(path).as_deref(), Some(&b"mine"[..]), "{path}");
    }
    assert!(names(place.path()).is_empty());
    guard.unharmed();
}

#[test]
fn attack_47_a_layer_cannot_write_through_a_symlink_of_its_own() {
    let guard = Guard::new();
    for way in ways_out(&guard) {
        let layer = symlink(RawTar::new(), "out", &way)
            .file(b"out/victim", b"written through")
            .file(b"out/dir/new", b"written through")
            .dir(b"out/new")
            .link(kind::SYMLINK, b"out/file", b"written through");
        guard.tried(&[layer.finish()]);
        // The last component is replaced, never followed.
        let layer = symlink(RawTar::new(), "file", &format!("{way}/file")).file(b"file", b"written through");
        if let Some(seen) = guard.tried(&[layer.finish()]) {
            assert_eq!(seen.kind("file"), Some(FileType::RegularFile), "{way}");
        }
    }
    guard.unharmed();
}

#[test]
fn attack_47_a_link_to_a_place_that_the_image_has_leads_there_and_not_to_the_host() {
    let guard = Guard::new();
    let place = outside_tmp();
    let path = place.path().to_str().expect("text");
    let layer = RawTar::new().long(b'L', path.as_bytes()).dir(b"");
    let layer = symlink(layer, "out", path).file(b"out/victim", b"written through").finish();
    let seen = guard.seen(&[layer]);
    assert_eq!(seen.read(format!("{path}/victim")).as_deref(), Some(&b"written through"[..]));
    assert!(names(place.path()).is_empty());
    guard.unharmed();
}

#[test]
fn attack_47_a_layer_cannot_write_through_a_symlink_of_an_earlier_layer() {
    let guard = Guard::new();
    for way in ways_out(&guard) {
        let earlier = symlink(RawTar::new(), "out", &way);
        let earlier = symlink(earlier, "file", &format!("{way}/file")).finish();
        let later = RawTar::new().file(b"out/victim", b"written through").file(b"file", b"written through").finish();
        let seen = guard.seen(&[earlier, later]);
        // The later layer's directory lies over the earlier one's link.
        assert_eq!(seen.kind("out"), Some(FileType::Directory), "{way}");
        assert_eq!(seen.read("out/victim").as_deref(), Some(&b"written through"[..]), "{way}");
        assert_eq!(seen.kind("file"), Some(FileType::RegularFile), "{way}");
    }
    guard.unharmed();
}

#[test]
fn attack_47_a_directory_that_turns_into_a_link_takes_nothing_along() {
    let guard = Guard::new();
    let canary = guard.canary_path();
    let turning = symlink(RawTar::new().dir(b"d").file(b"d/file", b"before"), "d", &canary);
    guard.tried(&[turning.clone().file(b"d/victim", b"after").finish()]);
    guard.tried(&[turning.clone().dir(b"d").file(b"d/victim", b"after").finish()]);
    // The same in the middle of a path, and by way of a hard link to the link.
    let middle = symlink(RawTar::new().dir(b"a/b/c"), "a/b", &canary).file(b"a/b/victim", b"after");
    guard.tried(&[middle.finish()]);
    let twice = turning.link(kind::HARD_LINK, b"e", b"d").file(b"e/victim", b"after").file(b"e", b"after");
    guard.tried(&[twice.finish()]);
    guard.unharmed();
}

#[test]
fn attack_47_a_hard_link_reaches_nothing_outside() {
    let guard = Guard::new();
    let canary = guard.canary_path();
    let file = format!("{canary}/file");
    let up = "../".repeat(24);
    for target in [file.clone(), "/etc/passwd".to_owned(), "etc/shadow".to_owned(), "wait".to_owned()] {
        let refused = guard.refuses_layer(hard_link(RawTar::new(), "stolen", &target).finish());
        assert!(refused.detail.contains("hard link"), "{target}: {}", refused.detail);
    }
    for target in [format!("{up}etc/passwd"), format!("{up}{}", &file[1..]), "../canary/file".to_owned()] {
        let refused = guard.refuses_layer(hard_link(RawTar::new(), "stolen", &target).finish());
        assert!(refused.detail.contains("'..'"), "{target}: {}", refused.detail);
    }
    for way in ways_out(&guard) {
        let through = hard_link(symlink(RawTar::new(), "out", &way), "stolen", "out/file");
        if let Some(seen) = guard.tried(&[through.clone().file(b"stolen", b"written through").finish()]) {
            assert_ne!(seen.read("stolen").as_deref(), Some(&b"untouched\n"[..]), "{way}");
        }
        // A hard link to the link itself, then a write to that name.
        let to_link = hard_link(symlink(RawTar::new(), "soft", &format!("{way}/file")), "hard", "soft");
        guard.tried(&[to_link.file(b"hard", b"written through").finish()]);
        // One whose place is reached through a link.
        let into = hard_link(symlink(RawTar::new().file(b"own", b"own"), "out", &way), "out/victim", "own");
        guard.tried(&[into.finish()]);
    }
    guard.unharmed();
}

#[test]
fn attack_47_a_whiteout_removes_nothing_outside() {
    let guard = Guard::new();
    for name in ["../.wh.canary", "a/../../.wh.canary", "../.wh..wh..opq"] {
        assert!(guard.refuses_layer(RawTar::new().file(name.as_bytes(), b"").finish()).detail.contains("'..'"));
    }
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", ".wh..wh.", ".wh..wh..wh..opq"] {
        let refused = guard.refuses_layer(RawTar::new().file(name.as_bytes(), b"").finish());
        assert!(refused.detail.contains("a whiteout of nothing"), "{name}: {}", refused.detail);
    }
    for way in ways_out(&guard) {
        let link = symlink(RawTar::new(), "out", &way);
        let whiteouts = |tar: RawTar| tar.file(b"out/.wh.file", b"").file(b"out/.wh.dir", b"").file(b".wh.out", b"");
        guard.tried(&[whiteouts(link.clone()).finish()]);
        if let Some(seen) = guard.tried(&[link.finish(), whiteouts(RawTar::new()).finish()]) {
            for name in ["file", "dir", "victim"] {
                assert_eq!(seen.kind(format!("out/{name}")), None, "{way}: {name}");
            }
        }
    }
    guard.unharmed();
}

#[test]
fn attack_47_an_opaque_mark_on_a_link_empties_nothing_outside() {
    let guard = Guard::new();
    // A link to its own root would empty that, and there were nothing to run.
    for way in ways_out(&guard).into_iter().filter(|way| !matches!(way.as_str(), "/" | "..")) {
        let link = symlink(RawTar::new(), "out", &way);
        let opaque = |tar: RawTar| tar.file(b"out/.wh..wh..opq", b"").file(b"out/dir/.wh..wh..opq", b"");
        guard.tried(&[opaque(link.clone()).finish()]);
        guard.tried(&[link.finish(), opaque(RawTar::new()).finish()]);
    }
    // On what is no directory.
    guard.tried(&[RawTar::new().file(b"file", b"x").file(b"file/.wh..wh..opq", b"").finish()]);
    guard.unharmed();
}

#[test]
fn attack_47_what_a_refused_layer_has_linked_is_not_followed_when_it_is_removed() {
    let guard = Guard::new();
    let mut layer = RawTar::new().dir(b"d");
    for (number, way) in ways_out(&guard).iter().enumerate() {
        layer = symlink(layer, &format!("d/{number}"), way);
    }
    let refused = guard.refuses_layer(layer.dir(b"d/locked").file(b"../end", b"").finish());
    assert!(refused.detail.contains("'..'"), "{}", refused.detail);
    guard.unharmed();
}

#[test]
fn attack_47_a_layer_that_hides_everything_hides_it_in_its_own_image_only() {
    let guard = Guard::new();
    let manifest =
        guard.image(&[bottom(), RawTar::new().file(b".wh..wh..opq", b"").file(b"only", b"x").finish()], "{}");
    guard.client.prepare(&stranger(), &manifest).expect("prepare");
    guard.open(&stranger());
    let main = hostile::rig::service(hostile::rig::MAIN);
    let answer = guard.client.start(&stranger(), &main, &manifest, hostile::rig::spec(&["/wait"]));
    let refused = hostile::rig::refusal(answer);
    assert!(refused.to_string().contains("execute \"/wait\""), "{refused}");
    // The layer below is shared, and as it was.
    assert!(guard.seen(&[]).kind("wait").is_some());
    guard.unharmed();
}

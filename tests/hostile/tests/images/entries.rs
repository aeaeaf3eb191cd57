//! 48: entries that are no files, are more than files, or lie about themselves.

use hostile::guard::{Guard, bottom, bottom_layer};
use hostile::oci::{Head, Layer};
use hostile::raw_tar::{BLOCK, Entry, RawTar, binary, kind, octal};
use rustix::fs::FileType;
use tar::EntryType;

const EIB_8: u64 = 1 << 63;

#[test]
fn attack_48_devices_pipes_and_unknown_entries_are_not_made() {
    let guard = Guard::new();
    let mut layer = RawTar::new().dir(b"d").file(b"d/file", b"x");
    for (name, kind, device) in [
        ("d/mem", kind::CHAR, (1, 1)),
        ("d/null", kind::CHAR, (1, 3)),
        ("d/nvidia", kind::CHAR, (195, 0)),
        ("d/loop", kind::BLOCK, (7, 0)),
        ("d/disk", kind::BLOCK, (254, 0)),
        ("d/fifo", kind::FIFO, (0, 0)),
        ("d/socket", b's', (0, 0)),
        ("d/volume", b'V', (0, 0)),
        ("d/multi", b'M', (0, 0)),
        ("d/dump", b'D', (0, 0)),
        ("d/solaris", b'X', (0, 0)),
        ("d/none", 0xFF, (0, 0)),
        // In the place of what is there: it stays.
        ("d/file", kind::CHAR, (1, 1)),
        // The root itself.
        ("/", kind::CHAR, (1, 1)),
        (".", kind::FIFO, (0, 0)),
    ] {
        layer = layer.entry(&Entry { device, ..Entry::new(kind, name.as_bytes(), b"") });
    }
    let seen = guard.seen(&[layer.finish()]);
    assert_eq!(seen.names("d"), ["file"]);
    assert_eq!(seen.read("d/file").as_deref(), Some(&b"x"[..]));
    let _ = seen.harmless();
    guard.unharmed();
}

#[test]
fn attack_48_a_whiteout_device_that_an_image_brings_hides_nothing() {
    let guard = Guard::new();
    let lower = RawTar::new().dir(b"d").file(b"d/shown", b"x").file(b"shown", b"x").finish();
    let upper = RawTar::new()
        .entry(&Entry::new(kind::CHAR, b"d/shown", b""))
        .entry(&Entry::new(kind::CHAR, b"shown", b""))
        .entry(&Entry::new(kind::CHAR, b"new", b""))
        .finish();
    let seen = guard.seen(&[lower, upper]);
    for path in ["d/shown", "shown"] {
        assert_eq!(seen.kind(path), Some(FileType::RegularFile), "{path}");
    }
    assert_eq!(seen.kind("new"), None);
    let _ = seen.harmless();
    guard.unharmed();
}

#[test]
fn attack_48_a_whiteout_of_what_is_not_there_leaves_no_name() {
    let guard = Guard::new();
    // In a directory that nothing lies below, and in one that shows nothing of what does.
    let lower = RawTar::new().dir(b"full").file(b"full/hidden", b"x").finish();
    let upper = RawTar::new().dir(b"new").file(b"new/.wh.ghost", b"").file(b"full/.wh.hidden", b"");
    let seen = guard.seen(&[lower, upper.file(b"full/.wh..wh..opq", b"").finish()]);
    assert_eq!((seen.kind("new/ghost"), seen.kind("full/hidden")), (None, None));
    assert_eq!((seen.names("new"), seen.names("full")), (vec![], vec![]), "names that nobody can open or remove");
    // In a directory of somebody else's, sticky or closed, in which the unpacker writes only by what is left to it.
    let theirs = |mode| Head { uid: 1000, gid: 1000, ..Head::new(EntryType::Directory, mode) };
    let layer = Layer::new().raw("sticky", theirs(0o1777), b"").raw("closed", theirs(0o1000), b"");
    let layer = layer.file("sticky/.wh.ghost", 0o644, b"").file("closed/.wh.ghost", 0o644, b"").finish();
    let seen = guard.seen(&[layer]);
    assert_eq!((seen.names("sticky"), seen.names("closed")), (vec![], vec![]));
    guard.unharmed();
}

#[test]
fn attack_48_setuid_bits_and_capabilities_do_not_survive() {
    let guard = Guard::new();
    // VFS_CAP_REVISION_2, effective; all capabilities.
    let capabilities = [&[1, 0, 0, 2][..], &[0xFF; 8], &[0; 8]].concat();
    let mut layer = Layer::new();
    for (name, mode) in [("suid", 0o4755), ("sgid", 0o2755), ("both", 0o6777), ("sticky", 0o1755), ("all", 0o7777)] {
        layer = layer.file(name, mode, b"x");
    }
    let layer = layer
        .xattrs(&[("security.capability", &capabilities), ("user.any", b"1"), ("security.selinux", b"x")])
        .file("capable", 0o755, b"x")
        .xattrs(&[("system.posix_acl_access", &[2, 0, 0, 0, 1, 0, 7, 0, 0xFF, 0xFF, 0xFF, 0xFF])])
        .file("listed", 0o600, b"x");
    let layer = RawTar::after(layer.finish())
        .entry(&Entry { mode: 0o7777, ..Entry::new(kind::DIR, b"dir", b"") })
        .entry(&Entry { mode: 0o6755, ..Entry::new(kind::FILE, b"dir/linked", b"x") })
        .link(kind::HARD_LINK, b"hard", b"dir/linked")
        .pax(b'x', &[(b"LIBARCHIVE.xattr.security.capability", b"AQAAAv////8AAAAA/////wAAAAA=")])
        .file(b"capable2", b"x")
        .finish();
    let seen = guard.seen(&[layer]);
    assert!(seen.harmless() >= 10, "something is missing");
    assert_eq!(seen.stat("all").map(|found| found.st_mode & 0o7777), Some(0o1777));
    guard.unharmed();
}

#[test]
fn attack_48_overlay_attributes_that_an_image_brings_mean_nothing() {
    let guard = Guard::new();
    let lower = RawTar::new().dir(b"d").file(b"d/shown", b"lower").file(b"e/shown", b"lower").file(b"secret", b"lower");
    let mut upper = Layer::new();
    for prefix in ["user.overlay", "trusted.overlay"] {
        let [opaque, redirect, metacopy, whiteout, origin] =
            ["opaque", "redirect", "metacopy", "whiteout", "origin"].map(|name| format!("{prefix}.{name}"));
        upper = upper
            .xattrs(&[(&opaque, b"y"), (&redirect, b"/e")])
            .dir("d")
            .xattrs(&[(&opaque, b"x")])
            .dir("e")
            .xattrs(&[(&whiteout, b"y")])
            .file("e/marked", 0o644, b"")
            .xattrs(&[(&redirect, b"/secret"), (&metacopy, b""), (&origin, b"\0")])
            .file("stolen", 0o644, b"own");
    }
    let seen = guard.seen(&[lower.finish(), upper.finish()]);
    assert_eq!(seen.names("d"), ["shown"]);
    assert_eq!(seen.names("e"), ["marked", "shown"]);
    assert_eq!(seen.read("stolen").as_deref(), Some(&b"own"[..]));
    let _ = seen.harmless();
    guard.unharmed();
}

#[test]
fn attack_48_a_name_with_a_special_meaning_to_some_engine_is_refused_or_plain() {
    let guard = Guard::new();
    for name in [".wh..wh.plnk", ".wh..wh.aufs", "d/.wh..wh.orph", ".wh..wh.plnk/1.2", "d/.wh..wh..tmp"] {
        let layer = RawTar::new().file(name.as_bytes(), b"x").finish();
        if let Some(seen) = guard.tried(&[layer]) {
            let hidden = seen.names("").into_iter().filter(|name| name.starts_with(".wh.")).count();
            assert!(hidden <= 1 && seen.kind("wait").is_some(), "{name}");
        }
    }
    // Not one of them: it only looks like it.
    let seen = guard.seen(&[RawTar::new().file(b".whatever", b"x").file(b"a.wh.b", b"x").finish()]);
    assert!(seen.kind(".whatever").is_some() && seen.kind("a.wh.b").is_some());
    guard.unharmed();
}

#[test]
fn attack_48_a_file_that_claims_exbibytes_is_refused_at_once() {
    let guard = Guard::new();
    for (what, size) in [
        ("8 EiB", binary(EIB_8)),
        ("all ones", [0xFF; 12]),
        ("minus one", [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE]),
        ("8 GiB in octal", octal((1 << 33) - 1)),
        ("no number", *b"99999999999\0"),
        ("a sign", *b"-0000000001\0"),
        ("1 PiB", binary(1 << 50)),
    ] {
        for kind in [kind::FILE, kind::DIR, kind::SYMLINK, b'L', b'x', b'g', b'K', b'S'] {
            let entry = Entry { size, link: b"x", ..Entry::new(kind, b"a", b"content") };
            let layer = RawTar::new().entry(&entry).file(b"b", b"x").finish();
            let (refused, peaks) = guard.peaks(|| guard.refuses_layer(layer));
            assert!(refused.took.as_secs() < 2, "{what}: {:?}", refused.took);
            assert!(peaks.child < 200 << 20, "{what} of kind {kind}: {peaks:?}");
        }
    }
    guard.unharmed();
}

#[test]
fn attack_48_a_sparse_file_cannot_be_larger_than_its_blob_allows() {
    let guard = Guard::new();
    for (what, layer) in [
        ("8 EiB of nothing", RawTar::new().sparse(b"a", EIB_8, &[], b"")),
        ("i64::MAX of nothing", RawTar::new().sparse(b"a", EIB_8 - 1, &[(EIB_8 - 1, 0)], b"")),
        ("data at the end", RawTar::new().sparse(b"a", EIB_8 - 1, &[(EIB_8 - 513, 512)], &[7; 512])),
        ("data that overflows", RawTar::new().sparse(b"a", 4096, &[(u64::MAX - 511, 512)], &[7; 512])),
        ("data that overlaps", RawTar::new().sparse(b"a", 4096, &[(0, 512), (0, 512)], &[7; 1024])),
        ("data backwards", RawTar::new().sparse(b"a", 4096, &[(2048, 512), (0, 512)], &[7; 1024])),
        ("data that is not there", RawTar::new().sparse(b"a", 4096, &[(0, 1 << 40)], &[7; 512])),
        ("1 GiB of nothing", RawTar::new().sparse(b"a", 1 << 30, &[(1 << 30, 0)], b"")),
    ] {
        let refused = guard.refuses_layer(layer.finish());
        assert!(refused.took.as_secs() < 2, "{what}: {:?}", refused.took);
    }
    // The kind of POSIX is made of ordinary files and attributes, which mean nothing here: it holds what it holds.
    let records: [(&[u8], &[u8]); 3] = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.realsize", b"9223372036854775807"),
        (b"GNU.sparse.name", b"../out"),
    ];
    if let Some(seen) = guard.tried(&[RawTar::new().pax(b'x', &records).file(b"posix", b"7\n").finish()]) {
        assert_eq!(seen.stat("posix").map(|found| found.st_size), Some(2));
    }
    guard.unharmed();
}

#[test]
fn attack_48_attributes_that_override_a_header_are_checked_like_a_header() {
    let guard = Guard::new();
    for path in ["../out", "a/../../out", "/../out"] {
        let layer = RawTar::new().pax(b'x', &[(b"path", path.as_bytes())]).file(b"honest", b"x").finish();
        assert!(guard.refuses_layer(layer).detail.contains("'..'"), "{path}");
        let layer = RawTar::new().long(b'L', path.as_bytes()).file(b"honest", b"x").finish();
        assert!(guard.refuses_layer(layer).detail.contains("'..'"), "{path}");
        let layer = RawTar::new().file(b"f", b"x").pax(b'x', &[(b"linkpath", path.as_bytes())]);
        let layer = layer.link(kind::HARD_LINK, b"honest", b"f").finish();
        assert!(guard.refuses_layer(layer).detail.contains("'..'"), "{path}");
    }
    for records in [
        &[(&b"size"[..], &b"-1"[..])][..],
        &[(b"size", b"18446744073709551615")],
        &[(b"size", b"9223372036854775808")],
        &[(b"size", b"1e3")],
        &[(b"path", b"a\0b")],
        &[(b"path", b"")],
        &[(b"uid", b"-1"), (b"gid", b"99999999999999999999")],
        &[(b"mtime", b"-99999999999999999999.5")],
        &[(b"mtime", b"NaN")],
    ] {
        let layer = RawTar::new().pax(b'x', records).file(b"f", b"content").file(b"after", b"x").finish();
        if let Some(seen) = guard.tried(&[layer]) {
            let _ = seen.harmless();
        }
    }
    // For all entries that come, not the next one alone.
    let layer = RawTar::new().pax(b'g', &[(b"path", b"../out"), (b"size", b"-1")]).file(b"f", b"x").finish();
    if let Some(seen) = guard.tried(&[layer]) {
        assert_eq!(seen.read("f").as_deref(), Some(&b"x"[..]));
    }
    guard.unharmed();
}

#[test]
fn attack_48_records_that_do_not_parse_are_refused_without_harm() {
    let guard = Guard::new();
    let header = |content: &[u8]| RawTar::new().entry(&Entry::new(b'x', b"PaxHeaders/x", content)).file(b"f", b"x");
    for content in [
        &b"999999999 path=a\n"[..],
        b"0 path=a\n",
        b"-5 path=a\n",
        b"path=a\n",
        b"12 path=a",
        b"\xFF\xFE\xFD",
        b"18446744073709551616 path=a\n",
        b"7 =\n",
    ] {
        if let Some(seen) = guard.tried(&[header(content).finish()]) {
            let _ = seen.harmless();
        }
    }
    guard.refuses_layer(RawTar::new().long(b'L', b"only a name").finish());
    guard.refuses_layer(RawTar::new().long(b'L', b"one").long(b'L', b"two").file(b"f", b"x").finish());
    guard.refuses_layer(RawTar::new().file(b"whole", b"x").bytes(&[0x41; BLOCK]).finish());
    guard.refuses_layer(
        RawTar::new().entry(&Entry { size: octal(4096), ..Entry::new(kind::FILE, b"f", b"x") }).broken_off(),
    );
    guard.unharmed();
}

#[test]
fn attack_48_the_last_of_two_entries_of_one_name_wins_whatever_they_are() {
    let guard = Guard::new();
    let kinds = [kind::FILE, kind::DIR, kind::SYMLINK];
    for first in kinds {
        for second in kinds {
            let of = |tar: RawTar, kind: u8| match kind {
                kind::FILE => tar.file(b"twice", b"x"),
                kind::DIR => tar.dir(b"twice").file(b"twice/in", b"x"),
                _ => tar.link(kind, b"twice", b"wait"),
            };
            let seen = guard.seen(&[of(of(RawTar::new(), first), second).finish()]);
            let expected = match second {
                kind::FILE => FileType::RegularFile,
                kind::DIR => FileType::Directory,
                _ => FileType::Symlink,
            };
            assert_eq!(seen.kind("twice"), Some(expected), "{first} then {second}");
        }
    }
    guard.unharmed();
}

#[test]
fn attack_48_names_are_bytes_and_no_two_spellings_are_one() {
    let guard = Guard::new();
    let names: [&[u8]; 15] = [
        b"n/case",
        b"n/CASE",
        b"n/caf\xC3\xA9",
        b"n/cafe\xCC\x81",
        b"n/\xFF\xFE",
        b"n/\xC0\xAE\xC0\xAE",
        b"n/%2e%2e",
        b"n/..\\..\\out",
        b"n/\xE2\x80\xA4\xE2\x80\xA4",
        b"n/\xE2\x80\xAEtxt",
        b"n/\x1b[2J",
        b"n/new\nline",
        b"n/ ",
        b"n/...",
        b"n/-rf",
    ];
    let layer = names.iter().fold(RawTar::new(), |layer, name| layer.file(name, name));
    let seen = guard.seen(&[layer.finish()]);
    assert_eq!(seen.names("n").len(), names.len());
    for name in names {
        let path = std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
        assert_eq!(seen.read(path).as_deref(), Some(name), "{path:?}");
    }
    // Into journals and answers such a name goes quoted.
    let refused = guard.refuses_layer(RawTar::new().file(b"\x1b[2J\n../out/..", b"x").finish());
    assert!(!refused.detail.chars().any(char::is_control), "{:?}", refused.detail);
    assert!(!guard.journal().contains('\u{1b}'), "{}", guard.journal());
    guard.unharmed();
}

#[test]
fn attack_48_owners_and_modes_stay_within_the_jail() {
    let guard = Guard::new();
    let mut layer = RawTar::after(bottom_layer().finish());
    for (number, field) in [b"7777777\0", b"0200000\0", b"0177777\0", b"-000001\0"].iter().enumerate() {
        let mut header = RawTar::new().file(format!("owned{number}").as_bytes(), b"x").broken_off();
        header[108..116].copy_from_slice(*field);
        header[116..124].copy_from_slice(*field);
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        layer = layer.bytes(&header);
    }
    // Directories that nobody may enter can be written to before, and removed after.
    let layer = layer
        .entry(&Entry { mode: 0, ..Entry::new(kind::DIR, b"locked", b"") })
        .file(b"locked/in", b"x")
        .entry(&Entry { mode: 0, ..Entry::new(kind::FILE, b"secret", b"x") });
    for layers in [vec![layer.clone().finish()], vec![bottom(), layer.finish()]] {
        if let Some(seen) = guard.tried(&layers) {
            let _ = seen.harmless();
            for number in 0..4 {
                let Some(found) = seen.stat(format!("owned{number}")) else { continue };
                assert!((200_000..200_000 + 65_536 * 64).contains(&found.st_uid), "{}", found.st_uid);
            }
        }
    }
    guard.unharmed();
}

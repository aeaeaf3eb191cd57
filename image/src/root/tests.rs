use super::*;

/// A root that nothing is wrong with.
fn sound() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    merge_usr(root.path()).expect("empty");
    for folder in ["etc", "proc", "run", "usr/share/x"] {
        fs::create_dir_all(root.path().join(folder)).expect("a folder");
    }
    fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/nologin\n").expect("a file");
    fs::write(root.path().join("etc/shadow"), "root:!*:1::::::\n").expect("a file");
    root
}

fn faults(root: &Path) -> String {
    match check(root) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_must_not_be_in_a_root_fails_the_check() {
    type Spoil = fn(&Path);
    fn put(root: &Path, name: &str, text: &str, mode: u32) {
        fs::write(root.join(name), text).expect(name);
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect(name);
    }
    let cases: [(Spoil, &str); 14] = [
        (|root| put(root, "usr/bin/dash", "", 0o755), "shell"),
        (|root| put(root, "usr/bin/python3.13", "", 0o755), "interpreter"),
        (|root| symlink("x", root.join("usr/bin/sh")).expect("a link"), "shell"),
        (|root| put(root, "usr/sbin/sshd", "", 0o755), "log in"),
        (|root| put(root, "usr/share/x/tool", "#!/bin/sh\n", 0o644), "script"),
        (|root| put(root, "usr/bin/x", "", 0o4755), "rights"),
        (|root| put(root, "usr/bin/x", "", 0o2755), "rights"),
        (|root| put(root, "usr/bin/x", "", 0o777), "written by others"),
        (|root| put(root, "usr/bin/x", "\x7fELFnonsense", 0o755), "ELF"),
        (|root| symlink("../y", root.join("usr/share/x/z")).expect("a link"), "nothing is"),
        (|root| symlink("z", root.join("usr/share/x/z")).expect("a link"), "nothing is"),
        (|root| put(root, "etc/shadow", "root::1::::::\n", 0o600), "password"),
        (|root| put(root, "etc/shadow", "root:$6$x$y:1::::::\n", 0o600), "password"),
        (|root| fs::remove_file(root.join("etc/shadow")).expect("ours"), "missing"),
    ];
    for (at, (spoil, expected)) in cases.into_iter().enumerate() {
        let root = sound();
        assert_eq!(faults(root.path()), "");
        spoil(root.path());
        let said = faults(root.path());
        assert!(said.contains(expected), "case {at}: {said:?}");
    }
}

#[test]
fn links_to_what_only_a_running_system_has_are_fine() {
    let root = sound();
    for (name, to) in
        [("a", "/run/systemd/resolve/x"), ("b", "/dev/null"), ("c", "../../../proc/self/mounts"), ("d", "../../lib")]
    {
        symlink(to, root.path().join("usr/share/x").join(name)).expect("a link");
    }
    assert_eq!(faults(root.path()), "");
}

#[test]
fn an_overlay_goes_over_links_and_files_and_keeps_its_own_links() {
    let (root, over) = (sound(), tempfile::tempdir().expect("a folder"));
    fs::create_dir_all(over.path().join("usr/bin")).expect("a folder");
    fs::create_dir_all(over.path().join("etc")).expect("a folder");
    fs::write(over.path().join("usr/bin/tool"), "new").expect("a file");
    fs::write(over.path().join("etc/passwd"), "new").expect("a file");
    symlink("/dev/null", over.path().join("etc/masked")).expect("a link");
    symlink("nowhere", root.path().join("usr/bin/tool")).expect("a link");
    copy_over(over.path(), root.path()).expect("copied");
    let mode = |name: &str| root.path().join(name).metadata().expect(name).permissions().mode() & 0o7777;
    assert_eq!((mode("usr/bin/tool"), mode("etc/passwd")), (0o755, 0o644));
    assert_eq!(fs::read_link(root.path().join("etc/masked")).expect("a link"), Path::new("/dev/null"));
    assert_eq!(fs::read(root.path().join("usr/bin/tool")).expect("a file"), b"new");
}

#[test]
fn modes_do_not_depend_on_who_builds() {
    let root = sound();
    let set = |name: &str, mode: u32| {
        fs::set_permissions(root.path().join(name), fs::Permissions::from_mode(mode)).expect(name);
    };
    for (file, mode) in [("etc/shadow", 0o664), ("usr/bin/tool", 0o700), ("usr/bin/odd", 0o4711), ("etc/list", 0o600)] {
        fs::write(root.path().join(file), "").expect("a file");
        set(file, mode);
    }
    set("usr/share", 0o700);
    set("etc", 0o2775);
    set_modes(root.path()).expect("ours");
    let check = |name: &str, expected: u32| {
        let found = root.path().join(name).metadata().expect(name).permissions().mode() & 0o7777;
        assert_eq!(found, expected, "{name}: {found:o}");
    };
    for (name, expected) in [
        ("", 0o755),
        ("usr/share", 0o755),
        ("etc", 0o755),
        ("etc/list", 0o644),
        ("etc/passwd", 0o644),
        ("etc/shadow", 0o600),
        ("usr/bin/tool", 0o755),
        ("usr/bin/odd", 0o4755),
    ] {
        check(name, expected);
    }
}

#[test]
fn empty_folders_go_but_for_mount_points() {
    let root = sound();
    fs::create_dir_all(root.path().join("usr/lib/a/b")).expect("a folder");
    fs::create_dir_all(root.path().join("proc")).expect("a folder");
    prune(root.path(), root.path()).expect("ours");
    assert!(root.path().join("proc").exists() && !root.path().join("usr/lib/a").exists());
}

use super::*;

fn package(name: &str) -> LockedPackage {
    LockedPackage {
        name: name.to_owned(),
        version: "2:1.02.205-2+b1~x".to_owned(),
        architecture: "amd64".to_owned(),
        suite: Suite::Security,
        path: format!("pool/updates/main/l/lvm2/{name}_1.02.205-2+b1~x_amd64.deb"),
        bytes: 1,
        sha256: "0a".repeat(32),
    }
}

fn lock(packages: Vec<LockedPackage>) -> Lock {
    Lock { sets: BTreeMap::from([("root".to_owned(), packages)]) }
}

#[test]
fn what_is_written_is_read_again() {
    let lock = lock(vec![package("dmsetup"), package("libdm")]);
    assert_eq!(Lock::parse(&lock.to_text(), "here").expect("its own text"), lock);
}

#[test]
fn a_package_that_cannot_be_is_refused() {
    let cases: [fn(&mut LockedPackage); 12] = [
        |package| package.path = "pool/../../etc/shadow.deb".to_owned(),
        |package| package.path = "/pool/main/x.deb".to_owned(),
        |package| package.path = "pool//x.deb".to_owned(),
        |package| package.path = "pool/main/x.txt".to_owned(),
        |package| package.path = "pool/main/x y.deb".to_owned(),
        |package| package.sha256 = "0A".repeat(32),
        |package| package.sha256 = "0a".repeat(31),
        |package| package.sha256 = String::new(),
        |package| package.bytes = 0,
        |package| package.bytes = u64::MAX / 2,
        |package| package.name = "a/b".to_owned(),
        |package| package.version = String::new(),
    ];
    for (at, spoil) in cases.iter().enumerate() {
        let mut bad = package("dmsetup");
        spoil(&mut bad);
        let refused = Lock::parse(&lock(vec![bad]).to_text(), "here");
        assert!(matches!(refused, Err(LockError::Package { .. } | LockError::Parse { .. })), "case {at}: {refused:?}");
    }
}

#[test]
fn packages_out_of_order_or_twice_are_refused() {
    for names in [["b", "a"], ["a", "a"]] {
        let text = lock(names.map(package).into()).to_text();
        assert!(matches!(Lock::parse(&text, "here"), Err(LockError::Package { .. })), "{names:?}");
    }
}

#[test]
fn text_that_is_no_lock_is_refused() {
    for text in ["", "format = 1\nmore = 2", "format = \"1\"", "format = 1\n[sets]\nroot = 3", "\0"] {
        assert!(matches!(Lock::parse(text, "here"), Err(LockError::Parse { .. })), "{text:?}");
    }
    assert!(matches!(Lock::parse("format = 2", "here"), Err(LockError::Format { found: 2, .. })));
}

#[test]
fn locks_join_when_their_sets_differ() {
    let mut more = lock(vec![package("a")]);
    let sets = more.sets.remove("root").expect("it is there");
    more.sets.insert("nvidia".to_owned(), sets);
    let both = lock(vec![package("b")]).join(more).expect("two sets");
    assert!(both.set("root").is_ok() && both.set("nvidia").is_ok());
    assert!(matches!(both.set("kernel"), Err(LockError::Set(_))));
    assert!(matches!(both.clone().join(both), Err(LockError::Twice(_))));
}

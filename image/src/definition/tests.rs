use super::*;

fn repository() -> PathBuf {
    Definition::repository(Path::new(env!("CARGO_MANIFEST_DIR"))).expect("this is it")
}

/// A copy of our own definition with `change` made to one of its files.
fn changed(file: &str, change: impl Fn(String) -> String) -> Result<Definition, DefinitionError> {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join(FOLDER);
    fs::create_dir_all(&folder).expect("a folder");
    for name in ["release.toml", "modules.toml", "trims.toml", "generic.toml"] {
        let text = fs::read_to_string(repository().join(FOLDER).join(name)).expect(name);
        let text = if name == file { change(text) } else { text };
        fs::write(folder.join(name), text).expect(name);
    }
    Definition::read(home.path(), "generic")
}

#[test]
fn every_flavour_of_ours_is_right() {
    let flavours = Definition::flavours(&repository()).expect("ours");
    assert!(flavours.contains(&"generic".to_owned()), "{flavours:?}");
    for flavour in flavours {
        let definition = Definition::read(&repository(), &flavour).expect(&flavour);
        assert!(!definition.about().is_empty() && definition.command_line().contains("rootfstype=erofs"));
        let kernel = &definition.release_sets()["kernel"].install;
        assert_eq!(kernel, &[format!("linux-image-{}", definition.kernel())]);
    }
}

#[test]
fn what_is_not_right_is_refused_and_named() {
    let check = |file: &str, from: &str, to: &str, expected: &str| {
        let refused = changed(file, |text| {
            assert!(text.contains(from), "{file} has no {from}");
            text.replacen(from, to, 1)
        });
        let error = refused.expect_err(to);
        let words = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(words.contains(expected), "{to}: {words}");
    };
    check("release.toml", "format = 1", "format = 2", "format 2");
    check("release.toml", "format = 1", "format = 1\nmore = 1", "unknown field");
    check("release.toml", "\"quiet\",", "\"qui et\",", "one word");
    check("release.toml", "debian = \"trixie\"", "debian = \"../trixie\"", "no plain word");
    check("release.toml", "epoch = 1", "epoch = -1", "epoch");
    check("generic.toml", "firmware = [\"wired\"]", "firmware = [\"wireless\"]", "not defined");
    check("generic.toml", "firmware =", "firm =", "unknown field");
    check("release.toml", "epoch = 1", "epoch = 999", "no file on FAT");
    check("generic.toml", "[budgets]", "[driver]\nname = \"nvidai\"\n[budgets]", "none of that name");
    check("generic.toml", "[budgets]", "[[take]]\nset = \"x\"\nfiles = []\n[budgets]", "no packages");
    check("generic.toml", "[budgets]", "[packages.root]\ninstall = []\n[budgets]", "already");
    check("modules.toml", "initrd = [", "initrds = [", "unknown field");
    check("trims.toml", "why =", "because =", "because");
}

#[test]
fn a_flavour_that_is_not_there_is_told_which_are() {
    let error = Definition::read(&repository(), "arm").expect_err("there is none").to_string();
    assert!(error.contains("generic"), "{error}");
    assert!(matches!(Definition::repository(Path::new("/")), Err(DefinitionError::Nowhere)));
}

use std::os::unix::fs::PermissionsExt;
use std::sync::OnceLock;

use layout::manifest::PublicKey;
use tempfile::TempDir;

use super::*;
use crate::sign;

/// Names and contents.
type Files = Vec<(String, Vec<u8>)>;

/// Made once, because five RSA keys take seconds; kept in memory, so that no file outlives its test.
fn made() -> (TempDir, PathBuf, PublicKeys) {
    static MADE: OnceLock<(Files, PublicKeys)> = OnceLock::new();
    let (files, public) = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a place for keys");
        let public = Keys::make(folder.path(), &[]).expect("keys can be made");
        let entries = fs::read_dir(folder.path()).expect("they were made").map(|entry| entry.expect("an entry"));
        let file = |entry: fs::DirEntry| {
            (entry.file_name().into_string().expect("text"), fs::read(entry.path()).expect("a file"))
        };
        (entries.map(file).collect(), public)
    });
    let folder = tempfile::tempdir().expect("a place for keys");
    let directory = folder.path().join("keys");
    create_directory(&directory).expect("a folder");
    for (name, bytes) in files {
        write(&directory.join(name), bytes).expect("a file");
    }
    (folder, directory, public.clone())
}

#[test]
fn only_the_owner_can_read_any_file() {
    let folder = tempfile::tempdir().expect("a place for keys");
    let directory = folder.path().join("keys");
    Keys::make(&directory, &[]).expect("keys can be made");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    let files: Vec<_> =
        fs::read_dir(&directory).expect("it is there").map(|entry| entry.expect("one").path()).collect();
    assert_eq!(files.len(), 20, "{files:?}");
    for path in files {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn keys_are_never_overwritten() {
    let (_folder, directory, _) = made();
    let before = fs::read(directory.join("db.key")).expect("a key");
    assert!(matches!(Keys::make(&directory, &[]), Err(KeysError::Exists { path }) if path == directory));
    assert_eq!(fs::read(directory.join("db.key")).expect("a key"), before);
}

#[test]
fn a_build_needs_none_of_the_keys_that_belong_off_line() {
    let (_folder, directory, public) = made();
    for file in ["PK.key", "PK.crt", "KEK.key", "KEK.crt", "approval.key", "PK.esl", "KEK.esl", "db.esl"] {
        fs::remove_file(directory.join(file)).expect("it was there");
    }
    let keys = Keys::open(&directory).expect("all that a build needs is there");
    let paths: Vec<String> = keys.enrolment().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/loader/keys/auto/db.auth", "/loader/keys/auto/KEK.auth", "/loader/keys/auto/PK.auth"]);
    assert_eq!(keys.release_public(), public.release);
}

#[test]
fn a_key_that_cannot_be_used_is_refused_with_its_name() {
    let check = |spoil: &dyn Fn(&Path), expected: &str| {
        let (_folder, directory, _) = made();
        spoil(&directory);
        let error = Keys::open(&directory).expect_err("it is spoilt");
        assert!(crate::verify::chain(&error).contains(expected), "{}", crate::verify::chain(&error));
    };
    let open = |file: &'static str| {
        move |directory: &Path| {
            fs::set_permissions(directory.join(file), fs::Permissions::from_mode(0o640)).expect("a mode");
        }
    };
    let put = |file: &'static str, bytes: &'static [u8]| {
        move |directory: &Path| fs::write(directory.join(file), bytes).expect("a file")
    };
    check(&open("db.key"), "db.key can be read by others (mode 640)");
    check(&open("pcr.key"), "pcr.key can be read by others");
    check(&put("db.key", b"no key"), "db.key cannot be used: this is no RSA private key");
    check(&put("db.key", b"\xff"), "db.key cannot be read");
    check(&put("release.key", b""), "release.key is no P-256 private key");
    check(&put("db.crt", b""), "this is no X.509 certificate");
    check(&put("db.crt", &[b'x'; 20_000]), "db.crt has more than");
    check(&|directory| fs::remove_file(directory.join("PK.auth")).expect("gone"), "PK.auth cannot be read");
    let swap = |directory: &Path| {
        fs::copy(directory.join("module.crt"), directory.join("db.crt")).expect("a copy");
    };
    check(&swap, "the certificate is for another key");
}

#[test]
fn a_secret_is_not_shown() {
    let (_folder, directory, _) = made();
    let keys = Keys::open(&directory).expect("they are there");
    let shown = format!("{keys:?} {:?}", keys.database());
    assert!(shown.contains("rig signature database key") && shown.len() < 300, "{shown}");
}

#[test]
fn a_manifest_signed_twice_has_one_signature_and_the_public_key_checks_it() {
    let (_folder, directory, public) = made();
    let keys = Keys::open(&directory).expect("they are there");
    let json = b"not a manifest, but bytes";
    assert_eq!(sign::manifest(&keys, json), sign::manifest(&keys, json));
    let key = PublicKey::from_hex(&public.release).expect("a point");
    let signature = sign::manifest(&keys, json);
    // Signed rightly, so that it is the form that is refused.
    let verified = layout::manifest::verify(json, &signature, &key);
    assert!(matches!(verified, Err(layout::manifest::ManifestError::Json(_))), "{verified:?}");
    let verified = layout::manifest::verify(b"other bytes", &signature, &key);
    assert!(matches!(verified, Err(layout::manifest::ManifestError::Signature)), "{verified:?}");
}

#[test]
fn a_foreign_certificate_joins_the_database() {
    let (_folder, directory, _) = made();
    let own = fs::read(directory.join("db.esl")).expect("a list");
    let der = |file: &str| {
        let file = fs::read(directory.join(file)).expect("a certificate");
        certificate::der_of(&certificate(&file).expect("a certificate"))
    };
    let within = |needle: &[u8]| own.windows(needle.len()).any(|window| window == needle);
    assert!(within(&der("db.crt")) && within(&der("module.crt")) && !within(&der("PK.crt")));
    let signer = Pair::make("one more").expect("a key");
    let all = Enrolment::all(&signer, &signer, &[signer.certificate().clone(), signer.certificate().clone()]);
    assert_eq!(all[0].list.len(), 2 * all[1].list.len());
}

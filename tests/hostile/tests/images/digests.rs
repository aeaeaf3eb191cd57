//! 50: images that are not what their digests, sizes and types say.
//!
//! What a registry may lie about on the way here is shown where images are pulled; this is the runner, which reads
//! them from a store that somebody else writes.

use hostile::guard::{Guard, bottom, stranger};
use hostile::oci::{self, Pack};
use hostile::raw_tar::RawTar;
use hostile::rig::refusal;
use runner::protocol::{Digest, Refusal};
use serde_json::{Value, json};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn blob_of(guard: &Guard, digest: &Digest) -> std::path::PathBuf {
    guard.content().join("blobs/sha256").join(digest.hex())
}

/// An image of one layer that waits, its configuration's descriptor, and its layer's.
fn parts(guard: &Guard) -> (Value, Value) {
    let content = guard.content();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [oci::digest(&bottom())] },
    });
    (oci::blob(&content, CONFIG, config.to_string().as_bytes()), oci::blob(&content, LAYER, &bottom()))
}

fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().expect("a digest").parse().expect("a digest")
}

fn refused(guard: &Guard, manifest: &Digest) -> Refusal {
    let refused = refusal(guard.client.prepare(&stranger(), manifest));
    guard.clean();
    assert!(hostile::guard::names(&guard.state("layers")).is_empty(), "left after {refused}");
    refused
}

#[test]
fn attack_50_a_document_that_was_changed_is_refused_by_its_digest() {
    let guard = Guard::new();
    let (config, layer) = parts(&guard);
    let manifest = oci::manifest(&guard.content(), &config, &[layer]);
    for (changed, object) in [(digest(&config), "config"), (manifest.clone(), "manifest")] {
        let path = blob_of(&guard, &changed);
        let honest = std::fs::read(&path).expect("read");
        // Still a document that can be read, and one that says the same.
        std::fs::write(&path, [&honest[..], b" "].concat()).expect("write");
        match refused(&guard, &manifest) {
            Refusal::DigestMismatch { object: found, expected, .. } => {
                assert_eq!((found.as_str(), expected), (object, changed));
            }
            other => panic!("{other}"),
        }
        std::fs::write(&path, honest).expect("write");
    }
    guard.unharmed();
}

#[test]
fn attack_50_a_layer_that_was_changed_is_refused_by_its_digest() {
    let guard = Guard::new();
    for pack in [Pack::Plain, Pack::Gzip, Pack::Zstd] {
        let honest = RawTar::new().file(b"program", b"what was paid for").finish();
        let other = RawTar::new().file(b"program", b"what comes instead").finish();
        let manifest = oci::image(&guard.content(), &[(&honest, pack)], "{}");
        let (_, packed) = pack.pack(&honest);
        let (_, mut swapped) = pack.pack(&other);
        let blob: Digest = oci::digest(&packed).parse().expect("a digest");
        // Of the same length, where that can be had: empty gzip members, zstd frames and tar blocks are neutral.
        swapped.resize(packed.len().max(swapped.len()), 0);
        std::fs::write(blob_of(&guard, &blob), &swapped).expect("write");
        let refused = refused(&guard, &manifest);
        let expected = matches!(refused, Refusal::DigestMismatch { .. } | Refusal::BadImage { .. });
        assert!(expected, "{pack:?}: {refused}");
    }
    guard.unharmed();
}

#[test]
fn attack_50_a_diff_id_that_is_anothers_is_refused_whoever_has_unpacked_it_before() {
    let guard = Guard::new();
    let honest = RawTar::new().file(b"program", b"what was paid for").finish();
    let wrong = oci::digest(b"another tar");
    let manifest = oci::image_with_diff_ids(&guard.content(), &[(&honest, Pack::Gzip)], "{}", |_| wrong.clone());
    match refused(&guard, &manifest) {
        Refusal::DigestMismatch { expected, found, .. } => {
            assert_eq!((expected.to_string(), found.to_string()), (wrong, oci::digest(&honest)));
        }
        other => panic!("{other}"),
    }
    guard.unharmed();
}

#[test]
fn attack_50_one_kind_of_document_is_not_taken_for_another() {
    let guard = Guard::new();
    let content = guard.content();
    let (config, layer) = parts(&guard);
    let manifest = oci::manifest(&content, &config, std::slice::from_ref(&layer));
    let as_value = |digest: &Digest| json!({ "mediaType": CONFIG, "digest": digest.to_string(), "size": 1 });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest.to_string(),
            "size": 1, "platform": { "architecture": "amd64", "os": "linux" } }],
    });
    let index = digest(&oci::blob(&content, "", index.to_string().as_bytes()));
    for (what, object) in [
        ("an index", index),
        ("a configuration", digest(&config)),
        ("a layer", digest(&layer)),
        (
            "a manifest whose configuration is itself a manifest",
            oci::manifest(&content, &as_value(&manifest), std::slice::from_ref(&layer)),
        ),
        (
            "a manifest whose configuration is a layer",
            oci::manifest(&content, &as_value(&digest(&layer)), std::slice::from_ref(&layer)),
        ),
        (
            "a manifest whose layer is a manifest",
            oci::manifest(
                &content,
                &config,
                &[
                    json!({ "mediaType": LAYER, "digest": manifest.to_string(), "size": std::fs::metadata(blob_of(&guard, &manifest)).expect("stat").len() }),
                ],
            ),
        ),
        ("nothing", digest(&oci::blob(&content, "", b""))),
        ("no JSON", digest(&oci::blob(&content, "", b"\xFF{"))),
        ("deep JSON", digest(&oci::blob(&content, "", "[".repeat(100_000).as_bytes()))),
    ] {
        let refused = refused(&guard, &object);
        assert!(matches!(refused, Refusal::BadImage { .. } | Refusal::DigestMismatch { .. }), "{what}: {refused}");
    }
    guard.unharmed();
}

#[test]
fn attack_50_a_size_that_is_not_the_blobs_is_refused() {
    let guard = Guard::new();
    let (config, layer) = parts(&guard);
    let honest = layer["size"].as_u64().expect("a size");
    for size in [json!(0), json!(1), json!(honest - 1), json!(honest + 1), json!(u64::MAX), json!(-1), json!(1.5)] {
        let mut lying = layer.clone();
        lying["size"] = size.clone();
        let manifest = oci::manifest(&guard.content(), &config, &[lying]);
        let refused = refused(&guard, &manifest);
        assert!(matches!(refused, Refusal::BadImage { .. }), "{size}: {refused}");
    }
    guard.unharmed();
}

#[test]
fn attack_50_a_layer_that_is_packed_otherwise_than_it_says_is_refused() {
    let guard = Guard::new();
    let content = guard.content();
    let (config, _) = parts(&guard);
    for (suffix, pack) in [
        ("", Pack::Gzip),
        ("", Pack::Zstd),
        ("+gzip", Pack::Zstd),
        ("+gzip", Pack::Plain),
        ("+zstd", Pack::Gzip),
        ("+zstd", Pack::Plain),
        ("+xz", Pack::Plain),
        ("+encrypted", Pack::Plain),
        ("; charset=utf-8", Pack::Plain),
    ] {
        let layer = oci::blob(&content, &format!("{LAYER}{suffix}"), &pack.pack(&bottom()).1);
        let refused = refused(&guard, &oci::manifest(&content, &config, &[layer]));
        assert!(
            matches!(refused, Refusal::BadImage { .. } | Refusal::DigestMismatch { .. }),
            "{suffix} {pack:?}: {refused}"
        );
    }
    guard.unharmed();
}

#[test]
fn attack_50_a_digest_that_is_no_plain_name_leads_nowhere() {
    let guard = Guard::new();
    let (config, layer) = parts(&guard);
    for name in [
        "sha256:../../../../etc/passwd",
        "sha256:/etc/passwd",
        "sha512:aa",
        "sha256:",
        "sha256:AA",
        "../canary/file",
        "",
    ] {
        let mut lying = layer.clone();
        lying["digest"] = json!(name);
        let of_layer = oci::manifest(&guard.content(), &config, &[lying.clone()]);
        lying["mediaType"] = json!(CONFIG);
        let of_config = oci::manifest(&guard.content(), &lying, std::slice::from_ref(&layer));
        for manifest in [of_layer, of_config] {
            let refused = refused(&guard, &manifest);
            assert!(matches!(refused, Refusal::BadImage { .. }), "{name}: {refused}");
        }
    }
    guard.unharmed();
}

#[test]
fn attack_50_a_blob_that_is_no_file_is_not_read() {
    let guard = Guard::new();
    let (config, layer) = parts(&guard);
    let manifest = oci::manifest(&guard.content(), &config, std::slice::from_ref(&layer));
    let path = blob_of(&guard, &digest(&layer));
    let replace: [(&str, &dyn Fn()); 3] = [
        ("a link", &|| std::os::unix::fs::symlink("/etc/passwd", &path).expect("symlink")),
        ("a pipe", &|| {
            let mode = rustix::fs::Mode::from(0o666);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("mkfifo");
        }),
        ("a directory", &|| std::fs::create_dir(&path).expect("mkdir")),
    ];
    for (what, make) in replace {
        let _ = std::fs::remove_file(&path);
        make();
        let began = std::time::Instant::now();
        let refused = refused(&guard, &manifest);
        assert!(began.elapsed().as_secs() < 2, "{what}: {refused}");
    }
    guard.unharmed();
}

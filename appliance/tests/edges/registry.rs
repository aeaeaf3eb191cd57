//! A registry that lies in every way that one can, and one that does not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use appliance::ledger::{Ledger, TagPins};
use appliance::registry::{Allowed, BLOB_TRIES, Coming, LAYERS_MAX, MANIFEST_BYTES_MAX, PullError, Pulled, Registry};
use appliance::store::{Shelf, Store, StoreError};
use serde_json::json;

use crate::lying::{Answer, Image, Lying, sha256};

const IMAGE_BYTES_MAX: u64 = 1 << 20;

/// A rig's side of a pull: a store, pins, and the puller over them.
struct Rig {
    registry: Registry,
    store: Arc<Store>,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        Rig::with_plain(Vec::new())
    }

    fn with_plain(plain: Vec<String>) -> Rig {
        Rig::that_allows(Allowed { plain, loopback: true })
    }

    fn that_allows(allowed: Allowed) -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::open(&dir.path().join("content")).expect("a store"));
        let ledger = dir.path().join("ledger.db");
        Ledger::open(&ledger).expect("a ledger");
        let pins = TagPins::open(&ledger).expect("pins");
        let registry = Registry::new(store.clone(), pins, allowed, IMAGE_BYTES_MAX).expect("a client");
        Rig { registry, store, dir }
    }

    /// Pulls, and checks what must hold whatever comes of it.
    async fn pull(&self, image: &str) -> Result<Pulled, PullError> {
        let pulled = pull_all(&self.registry, "0xsource", image).await;
        let left = std::fs::read_dir(self.dir.path().join("content/incoming")).expect("lists").count();
        assert_eq!(left, 0, "nothing half-written is left");
        for blob in std::fs::read_dir(self.dir.path().join("content/blobs/sha256")).expect("lists") {
            let path = blob.expect("an entry").path();
            let bytes = std::fs::read(&path).expect("reads");
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert_eq!(format!("sha256:{name}"), sha256(&bytes), "what has a name is what it says");
        }
        pulled
    }

    async fn refuses(&self, image: &str, says: &str) {
        let error = self.pull(image).await.expect_err("the image is refused");
        assert!(matches!(error, PullError::Refused { .. }) && error.is_final(), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Pulls an image of which no layer is sealed anywhere.
async fn pull_all(registry: &Registry, source: &str, image: &str) -> Result<Pulled, PullError> {
    let found = registry.find(source, image).await?;
    let missing = found.layers.iter().map(|(layer, _)| *layer).collect();
    registry.fetch(&found, &missing, &|_| {}).await
}

#[tokio::test]
async fn only_what_is_missing_is_fetched_and_what_is_sealed_is_discarded() {
    let registry = Lying::serve(Image::honest()).await;
    let rig = Rig::new();
    let found = rig.registry.find("0xsource", &registry.name("a/b:1")).await.expect("finds");
    let (second, bytes) = found.layers[1];
    let told = Mutex::new(Vec::new());
    let note = |coming: Coming| told.lock().expect("no holder panics").push(coming);
    let pulled = rig.registry.fetch(&found, &BTreeSet::from([second]), &note).await.expect("fetches");
    assert_eq!((pulled.bytes, registry.asked_for_blobs()), (bytes, 2), "the configuration and one layer");
    assert!(!rig.store.has(Shelf::Images, found.layers[0].0).await);
    let told = told.lock().expect("no holder panics").clone();
    let here = |bytes| Coming { bytes, of_bytes: 9, layer: 1, layers: 1 };
    assert_eq!((told.first(), told.last()), (Some(&here(0)), Some(&here(9))));

    rig.registry.discard_layers(&found).await.expect("discards");
    assert!(!rig.store.has(Shelf::Images, second).await);
    for kept in [found.manifest, found.config] {
        assert!(rig.store.has(Shelf::Images, kept).await, "jails are made from it");
    }
    let again = rig.registry.find("0xsource", &registry.name("a/b:1")).await.expect("finds");
    let none = rig.registry.fetch(&again, &BTreeSet::new(), &|_| {}).await.expect("fetches");
    assert_eq!((none.bytes, none.fetched_bytes), (0, 0));
}

#[tokio::test]
async fn an_image_is_pulled_through_its_index_and_only_once() {
    let registry = Lying::serve(Image::honest()).await;
    let rig = Rig::new();
    let pulled = rig.pull(&registry.name("a/b:1")).await.expect("pulls");
    let image = registry.image();
    assert_eq!(pulled.manifest.to_string(), sha256(&image.manifest));
    let bytes = image.blobs.iter().map(|blob| blob.bytes.len() as u64).sum::<u64>();
    let config = image.blobs[0].bytes.len() as u64;
    assert_eq!((pulled.bytes, pulled.fetched_bytes), (bytes - config, bytes));
    assert!(rig.store.has(Shelf::Images, pulled.manifest).await);

    let asked = registry.asked();
    let again = rig.pull(&registry.name("a/b:1")).await.expect("pulls again");
    assert_eq!((again.manifest, again.fetched_bytes), (pulled.manifest, 0));
    assert_eq!(registry.asked(), asked, "nothing is asked for twice");
}

#[tokio::test]
async fn a_moved_tag_still_gives_what_it_was_at_first() {
    let registry = Lying::serve(Image::honest()).await;
    let rig = Rig::new();
    let first = rig.pull(&registry.name("a/b:1")).await.expect("pulls");
    registry.change(|image| *image = Image::of(&[b"another layer"]));
    let second = rig.pull(&registry.name("a/b:1")).await.expect("pulls");
    assert_eq!(first.manifest, second.manifest);
    let other = pull_all(&rig.registry, "0xother", &registry.name("a/b:1")).await.expect("pulls");
    assert_ne!(first.manifest, other.manifest, "another source has its own first sight");
}

#[tokio::test]
async fn an_image_is_pulled_by_its_digest() {
    let registry = Lying::serve(Image::honest()).await;
    let digest = sha256(&registry.image().manifest);
    let pulled = Rig::new().pull(&registry.name(&format!("a/b:1@{digest}"))).await.expect("pulls");
    assert_eq!(pulled.manifest.to_string(), digest);
}

#[tokio::test]
async fn a_manifest_that_is_not_what_it_was_asked_for_by_is_refused_for_good() {
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| image.manifest_answer = Answer::Bytes(b"{\"schemaVersion\":2}".to_vec()));
    let rig = Rig::new();
    let wanted = sha256(&registry.image().manifest);
    for name in [registry.name(&format!("a/b@{wanted}")), registry.name("a/b:1")] {
        let error = rig.pull(&name).await.expect_err("refused");
        assert!(matches!(error, PullError::Store { source: StoreError::Mismatch { .. }, .. }), "{error}");
        assert!(error.is_final());
    }
}

#[tokio::test]
async fn a_manifest_over_the_bound_is_refused_announced_or_endless() {
    let bound = usize::try_from(MANIFEST_BYTES_MAX).expect("fits");
    for answer in [Answer::Bytes(vec![b' '; bound + 1]), Answer::Endless] {
        let registry = Lying::serve(Image::honest()).await;
        registry.change(|image| image.index_answer = answer.clone());
        Rig::new().refuses(&registry.name("a/b:1"), "more than the 4194304 bytes").await;
    }
}

#[tokio::test]
async fn a_manifest_that_is_none_is_said_to_be_none() {
    for text in ["", "{", "[]", "<html>", "{\"schemaVersion\":2,\"config\":{},\"layers\":[]}"] {
        let registry = Lying::serve(Image::honest()).await;
        registry.change(|image| image.index_answer = Answer::Bytes(text.into()));
        let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("refused");
        assert!(matches!(error, PullError::Nonsense { .. }), "{text}: {error}");
    }
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| {
        let negative = image.text().replace("\"size\":", "\"size\":-");
        image.set_manifest(negative.into_bytes());
    });
    let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("refused");
    assert!(matches!(error, PullError::Nonsense { .. }), "{error}");
}

#[tokio::test]
async fn an_index_without_this_machine_is_refused() {
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| {
        let index = String::from_utf8(image.index.clone()).expect("text").replace("amd64", "arm64");
        image.index = index.into_bytes();
    });
    Rig::new().refuses(&registry.name("a/b:1"), "no image for linux/amd64").await;
}

#[tokio::test]
async fn an_index_that_leads_to_an_index_is_not_followed_further() {
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| {
        let index = image.index.clone();
        image.set_manifest(index);
    });
    let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("refused");
    assert!(matches!(error, PullError::Nonsense { .. }), "{error}");
}

#[tokio::test]
async fn an_image_that_announces_too_much_is_refused_before_a_blob_is_fetched() {
    let many: Vec<Vec<u8>> = (0..=LAYERS_MAX).map(|n| n.to_string().into_bytes()).collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    let registry = Lying::serve(Image::of(&many)).await;
    Rig::new().refuses(&registry.name("a/b:1"), "129 layers").await;
    assert_eq!(registry.asked_for_blobs(), 0);

    for size in [IMAGE_BYTES_MAX, u64::MAX] {
        let registry = Lying::serve(Image::honest()).await;
        registry.change(|image| {
            let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).expect("JSON");
            manifest["layers"][0]["size"] = json!(size);
            image.set_manifest(manifest.to_string().into_bytes());
        });
        Rig::new().refuses(&registry.name("a/b:1"), "(image_bytes)").await;
        assert_eq!(registry.asked_for_blobs(), 0);
    }
}

#[tokio::test]
async fn a_digest_that_cannot_be_checked_is_refused() {
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| {
        let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).expect("JSON");
        manifest["config"]["digest"] = json!(format!("sha512:{}", "a".repeat(128)));
        image.set_manifest(manifest.to_string().into_bytes());
    });
    Rig::new().refuses(&registry.name("a/b:1"), "only sha256 is checked").await;
}

#[tokio::test]
async fn a_blob_that_is_another_is_fetched_a_few_times_and_then_given_up_for_good() {
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| {
        let bytes = image.blobs[1].bytes.iter().map(|byte| byte ^ 1).collect();
        image.blobs[1].answer = Answer::Bytes(bytes);
    });
    let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("refused");
    assert!(matches!(error, PullError::Store { source: StoreError::Mismatch { .. }, .. }), "{error}");
    assert!(error.is_final());
    assert_eq!(registry.asked_for_blobs(), 1 + BLOB_TRIES, "the config, and the lie");
}

#[tokio::test]
async fn a_blob_longer_than_announced_is_cut_off_at_its_size() {
    for answer in [Answer::Endless, Answer::Bytes(vec![0; 4096])] {
        let registry = Lying::serve(Image::honest()).await;
        registry.change(|image| image.blobs[1].answer = answer.clone());
        Rig::new().refuses(&registry.name("a/b:1"), "that were announced or allowed").await;
    }
}

#[tokio::test]
async fn a_blob_shorter_than_announced_is_not_taken_for_the_whole() {
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| image.blobs[1].answer = Answer::Bytes(b"lay".to_vec()));
    let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("refused");
    assert!(matches!(error, PullError::Store { source: StoreError::Mismatch { .. }, .. }), "{error}");
}

#[tokio::test]
async fn a_transfer_that_breaks_off_is_begun_again() {
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| image.blobs[1].broken_times = 1);
    Rig::new().pull(&registry.name("a/b:1")).await.expect("the second try brings it");

    registry.change(|image| image.blobs[1].broken_times = BLOB_TRIES);
    let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("all tries broke off");
    assert!(matches!(error, PullError::Unreachable { .. }) && !error.is_final(), "{error}");
}

#[tokio::test]
async fn a_challenge_is_answered_with_a_token() {
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| image.token = Some(json!({ "token": "sesame" }).to_string().into()));
    Rig::new().pull(&registry.name("a/b:1")).await.expect("pulls");
    registry.change(|image| image.token = Some(json!({ "access_token": "sesame" }).to_string().into()));
    Rig::new().pull(&registry.name("a/b:1")).await.expect("pulls");
    registry.change(|image| image.token = Some(json!({ "token": "wrong" }).to_string().into()));
    let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("refused");
    assert!(matches!(error, PullError::Status { status, .. } if status.as_u16() == 401), "{error}");
}

#[tokio::test]
async fn a_token_that_is_none_is_refused() {
    for (token, says) in [("{}".to_owned(), "sent no token"), ("x".repeat(70_000), "more than a token")] {
        let registry = Lying::serve(Image::honest()).await;
        registry.change(|image| image.token = Some(token.into()));
        Rig::new().refuses(&registry.name("a/b:1"), says).await;
    }
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| image.token = Some("<html>".into()));
    let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("refused");
    assert!(matches!(error, PullError::Nonsense { what: "token", .. }), "{error}");
}

#[tokio::test]
async fn a_token_is_not_fetched_without_tls_from_beyond_this_machine() {
    let registry = Lying::serve(Image::honest()).await;
    registry.change(|image| image.token = Some(json!({ "token": "sesame" }).to_string().into()));
    // This address is this machine to the kernel, and no loopback to us.
    let far = format!("0.0.0.0:{}", registry.port());
    let rig = Rig::with_plain(vec![far.clone()]);
    rig.refuses(&format!("{far}/a/b:1"), "without TLS").await;
}

#[tokio::test]
async fn a_registry_beyond_the_public_internet_is_asked_only_if_the_owner_says_so() {
    let registry = Lying::serve(Image::honest()).await;
    // This address is this machine to the kernel, and no loopback to us.
    let far = format!("0.0.0.0:{}", registry.port());
    let here = format!("127.0.0.1:{}", registry.port());
    Rig::new().refuses(&format!("{far}/a/b:1"), "limits.plain_registries").await;
    let strict = || Rig::that_allows(Allowed::default());
    for host in [here.clone(), format!("localhost:{}", registry.port())] {
        strict().refuses(&format!("{host}/a/b:1"), "content.allow_private").await;
    }
    assert_eq!(registry.asked(), 0);
    for listed in [far, here] {
        let rig = Rig::that_allows(Allowed { plain: vec![listed.clone()], loopback: false });
        rig.pull(&format!("{listed}/a/b:1")).await.expect("pulls");
    }
    Rig::new().pull(&format!("localhost:{}/a/b:1", registry.port())).await.expect("pulls");
}

#[tokio::test]
async fn what_may_pass_is_told_from_what_stays() {
    for (status, is_final) in
        [(404, true), (403, true), (400, true), (408, false), (429, false), (500, false), (503, false)]
    {
        let registry = Lying::serve(Image::honest()).await;
        registry.change(|image| image.index_answer = Answer::Status(status));
        let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("no success");
        assert!(matches!(error, PullError::Status { status: got, .. } if got.as_u16() == status), "{error}");
        assert_eq!(error.is_final(), is_final, "{status}");
    }
    let error = Rig::new().pull("127.0.0.1:1/a/b:1").await.expect_err("nobody is there");
    assert!(matches!(error, PullError::Unreachable { .. }) && !error.is_final(), "{error}");
    assert!(Rig::new().pull("a b").await.expect_err("no reference").is_final());
}

#[tokio::test]
async fn a_blob_may_be_handed_over_to_another_host_and_not_for_ever() {
    let registry = Lying::serve(Image::honest()).await;
    let elsewhere = Lying::serve(registry.image()).await;
    let to = elsewhere.blob_url(&registry.image().blobs[1].bytes);
    registry.change(|image| image.blobs[1].answer = Answer::Elsewhere(to));
    Rig::new().pull(&registry.name("a/b:1")).await.expect("pulls");

    let itself = registry.blob_url(&registry.image().blobs[1].bytes);
    registry.change(|image| image.blobs[1].answer = Answer::Elsewhere(itself));
    let error = Rig::new().pull(&registry.name("a/b:1")).await.expect_err("it goes in a circle");
    assert!(matches!(error, PullError::Unreachable { .. }), "{error}");
    assert!(registry.asked_for_blobs() < 30, "{} requests", registry.asked_for_blobs());
}

#[tokio::test]
async fn what_rots_on_the_disk_is_found_and_fetched_again() {
    let registry = Lying::serve(Image::honest()).await;
    let rig = Rig::new();
    let pulled = rig.pull(&registry.name("a/b:1")).await.expect("pulls");
    assert!(!rig.registry.weed(&pulled).await.expect("reads"), "all is sound");
    let rotten = rig.store.path(Shelf::Images, pulled.blobs[2]);
    std::fs::write(&rotten, b"layer 0ne").expect("writes");
    assert!(rig.registry.weed(&pulled).await.expect("reads"));
    let again = rig.pull(&registry.name("a/b:1")).await.expect("pulls");
    assert_eq!(again.fetched_bytes, 9);
    assert_eq!(std::fs::read(&rotten).expect("reads"), b"layer one");
}

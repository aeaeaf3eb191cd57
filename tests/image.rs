//! The source image is in Debian's registry as a rig will ask for it.

use std::collections::BTreeMap;

use serde_json::Value;
use testbed::registry::Registry;

/// Three layers: Debian with Python, the framework, the handler.
const LAYERS: usize = 3;

#[tokio::test]
async fn the_source_image_is_served_by_tag_and_by_digest() {
    let registry = Registry::start().await.expect("docker-registry starts");
    let pushed = registry.push_handler().await.expect("skopeo pushes");
    let (name, tag) =
        pushed.reference.split_once('/').and_then(|(_, rest)| rest.rsplit_once(':')).expect("host/name:tag");

    let by_tag = fetch(&registry, name, "manifests", tag).await;
    let by_digest = fetch(&registry, name, "manifests", &pushed.digest).await;
    assert_eq!(by_tag, by_digest);
    assert_eq!(by_tag["layers"].as_array().map(Vec::len), Some(LAYERS));

    let config = by_tag["config"]["digest"].as_str().expect("a manifest names its configuration");
    let config = fetch(&registry, name, "blobs", config).await;
    assert_eq!((&config["os"], &config["architecture"]), (&"linux".into(), &"amd64".into()));
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/bin/python3", "/srv/handler.py"]));
    let environment: BTreeMap<_, _> = config["config"]["Env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.as_str()?.split_once('='))
        .collect();
    assert_eq!(environment.get("PYTHONPATH"), Some(&"/opt/packages"));
}

async fn fetch(registry: &Registry, name: &str, kind: &str, which: &str) -> Value {
    let url = format!("http://{}/v2/{name}/{kind}/{which}", registry.host);
    let request = reqwest::Client::new().get(url).header("accept", "application/vnd.oci.image.manifest.v1+json");
    let answer = request.send().await.expect("the registry answers");
    assert!(answer.status().is_success(), "{kind} {which}: {}", answer.status());
    let text = answer.text().await.expect("the answer ends");
    serde_json::from_str(&text).expect("a manifest or a configuration is JSON")
}

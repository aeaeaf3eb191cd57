//! Any bytes as a registry's document, an image's configuration, the name of an image, or what the runner reads of one.

use appliance::registry::document::{Document, understand, weigh};
use appliance::registry::{LAYERS_MAX, Reference, parse_digest};

/// The bound on an image here, in bytes.
const IMAGE_BYTES_MAX: u64 = 64 << 30;

/// Reads `data` as each of them.
pub(crate) fn run(data: &[u8]) {
    match understand(data) {
        Ok(Document::Image(manifest)) => {
            if weigh(&manifest, IMAGE_BYTES_MAX).is_ok() {
                assert!(manifest.layers().len() <= LAYERS_MAX);
            }
            for blob in manifest.layers().iter().chain([manifest.config()]) {
                let _ = parse_digest(blob.digest().as_ref());
            }
        }
        Ok(Document::Index { ours }) => {
            let _ = ours.as_deref().and_then(parse_digest);
        }
        Err((_, error)) => assert!(!error.to_string().is_empty()),
    }
    let _ = oci_spec::image::ImageConfiguration::from_reader(data);
    if let Ok(manifest) = runner::image::Manifest::read(data)
        && let Ok(image) = manifest.with_config(data)
    {
        assert!((1..=runner::layer::LAYERS_MAX).contains(&image.layers.len()));
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(reference) = text.parse::<Reference>()
    {
        let again: Reference = reference.to_string().parse().expect("a name is read as it is written");
        assert_eq!(again, reference);
        assert!(!reference.repository().split('/').any(|part| matches!(part, "" | "." | "..")));
    }
}

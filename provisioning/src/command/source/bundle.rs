//! A source whose work is a CUDA bundle: the bundle's own document, and the compose file that names it.
//!
//! A rig reads `x-cuda` and runs the function; what runs containers passes that field over and starts the services. So
//! one source serves both if an image is given, and rigs alone if none is.

use std::fmt::Write;
use std::path::PathBuf;

use bundle::Bundle;
use clap::Args;

use super::pin;
use crate::cuda::archive::{self, ArchiveError};
use crate::exit::{Exit, Failure};
use crate::owner::Owner;
use crate::screen::Screen;

/// The bundle, on the command line.
#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    /// A CUDA bundle as its work on NVIDIA GPUs, as `rig cuda build` writes it.
    #[arg(long, value_name = "FILE", conflicts_with = "nvidia_compose")]
    bundle: Option<PathBuf>,
    /// The bundle's function; needed if it has several.
    #[arg(long, value_name = "NAME", requires = "bundle")]
    function: Option<String>,
    /// A container image that does the same work, for providers that run containers.
    #[arg(long, value_name = "IMAGE", requires = "bundle", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    fallback_image: Option<String>,
}

/// A bundle that was read and checked.
#[derive(Debug)]
pub(super) struct Bundled {
    archive: Vec<u8>,
    name: String,
    function: String,
    fallback_image: Option<String>,
}

// === impl BundleArgs ===

impl BundleArgs {
    /// Reads the bundle, if there is one, and settles which function is meant.
    pub(super) fn read(&self) -> Result<Option<Bundled>, Failure> {
        let Some(path) = &self.bundle else { return Ok(None) };
        let (bundle, archive) = archive::read(path)?;
        let function = function(&bundle, self.function.as_deref())?;
        let (name, fallback_image) = (bundle.name().to_owned(), self.fallback_image.clone());
        Ok(Some(Bundled { archive, name, function, fallback_image }))
    }
}

/// The function that is meant: the one that is asked for, or the only one.
fn function(bundle: &Bundle, asked: Option<&str>) -> Result<String, Failure> {
    let names: Vec<_> = bundle.functions().map(|function| function.name()).collect();
    let all = names.join(", ");
    match (asked, names.as_slice()) {
        (Some(asked), names) if names.contains(&asked) => Ok(asked.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (Some(asked), _) => Err(Failure::new(Exit::Usage, format!("the bundle has no function {asked:?}"))
            .next(format!("name one of: {all}"))),
        (None, _) => Err(Failure::new(Exit::Usage, format!("the bundle has {} functions", names.len()))
            .next(format!("name one with --function: {all}"))),
    }
}

// === impl Bundled ===

impl Bundled {
    /// Publishes the bundle, then the compose file, and returns the compose file's link.
    pub(super) async fn link(self, owner: &Owner, screen: Screen) -> Result<String, Failure> {
        let name = format!("{}.bundle", self.name);
        let bundle = pin(owner, screen, &name, "application/x-tar", self.archive).await?;
        let text = compose(&bundle, &self.function, self.fallback_image.as_deref());
        pin(owner, screen, "docker-compose.yml", "application/yaml", text).await
    }
}

/// The compose file. A JSON string is a YAML string, whatever is in it.
fn compose(link: &str, function: &str, fallback_image: Option<&str>) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = match fallback_image {
        None => "services: {}\n".to_owned(),
        Some(image) => format!(
            "services:\n  fallback:\n    image: {}\n    deploy:\n      resources:\n        reservations:\n          \
             devices:\n            - driver: nvidia\n              count: 1\n              capabilities: [gpu]\n",
            quoted(image)
        ),
    };
    let field = write!(text, "x-cuda:\n  bundle: {}\n  function: {}\n", quoted(link), quoted(function));
    field.expect("a string takes what it is given");
    text
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Failure {
        Failure::new(Exit::Usage, error).next("name a bundle that `rig cuda build` wrote")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compose_file_names_the_bundle_and_the_image_that_stands_in_for_it() {
        assert_eq!(
            compose("https://ipfs.example/ipfs/bafy", "render", None),
            "services: {}\nx-cuda:\n  bundle: \"https://ipfs.example/ipfs/bafy\"\n  function: \"render\"\n"
        );
        let both = compose("https://ipfs.example/ipfs/bafy", "render", Some("registry.example/render:1"));
        assert!(
            both.starts_with("services:\n  fallback:\n    image: \"registry.example/render:1\"\n    deploy:\n"),
            "{both}"
        );
        assert!(both.contains("            - driver: nvidia\n              count: 1\n"), "{both}");
        assert!(
            both.ends_with("x-cuda:\n  bundle: \"https://ipfs.example/ipfs/bafy\"\n  function: \"render\"\n"),
            "{both}"
        );
    }

    #[test]
    fn a_strange_image_stays_one_string() {
        let text = compose("l", "f", Some("a\"\nx-cuda: {}"));
        assert!(text.contains("image: \"a\\\"\\nx-cuda: {}\"\n"), "{text}");
    }
}

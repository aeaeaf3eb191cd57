//! From a link to a bundle that is served: fetched, parsed, held against the GPUs, and made into machine code.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bundle::Bundle;
use bundle::limits::ARCHIVE_BYTES_MAX;
use runner::memory;
use tracing::info;
use work::SourceId;

use super::fit::fit;
use super::{Direct, DirectError, Loaded, Started, blocking, digest_of};
use crate::board::{Doing, Telling};
use crate::compose::Cuda;

impl Direct {
    /// Serves a source by the bundle that its compose file names, as soon as it is loaded, `within` that time. What was
    /// served under its name before is not any more, whether this succeeds or not. Doing it again with nothing changed
    /// makes no machine code again.
    pub async fn start(
        &self,
        source: SourceId,
        cuda: &Cuda,
        within: Duration,
        telling: &Telling<'_>,
    ) -> Result<Started, DirectError> {
        let late = DirectError::TooSlow { seconds: within.as_secs() };
        let loaded = tokio::time::timeout(within, self.load(source, cuda, telling)).await;
        match loaded.unwrap_or(Err(late)) {
            Ok((loaded, notes)) => {
                let functions = loaded.names();
                let bundle = loaded.bundle.digest();
                info!(%source, %bundle, name = loaded.bundle.name(), archs = ?loaded.archs(), "bundle is loaded");
                self.loaded().insert(source, Arc::new(loaded));
                Ok(Started { bundle: digest_of(bundle), functions, notes })
            }
            Err(error) => {
                self.stop(source);
                Err(error)
            }
        }
    }

    async fn load(
        &self,
        source: SourceId,
        cuda: &Cuda,
        telling: &Telling<'_>,
    ) -> Result<(Loaded, Vec<String>), DirectError> {
        let gpus = self.gpus.usable().await?;
        telling.say(Doing::Fetching { link: cuda.bundle.clone() });
        let bytes_max = u64::try_from(ARCHIVE_BYTES_MAX).unwrap_or(u64::MAX);
        let fetched = self.content.fetch(&cuda.bundle, bytes_max).await;
        let fetched = fetched.map_err(|source| DirectError::Fetch { what: "its bundle".to_owned(), source })?;
        let parsed = blocking(move || {
            let bundle = Bundle::parse(&fetched).map_err(DirectError::NotABundle)?;
            Ok::<_, DirectError>((bundle, memory::sealed("bundle", &fetched)?))
        });
        let (bundle, archive) = parsed.await?;
        if let Some(name) = cuda.function.as_ref().filter(|name| bundle.function(name).is_none()) {
            let serves = bundle.functions().map(|function| function.name().to_owned()).collect();
            return Err(DirectError::NoFunction { name: name.clone(), serves });
        }
        let fit = fit(&bundle, &gpus)?;
        let before = self.loaded().get(&source).cloned();
        let before = before.filter(|before| before.bundle.digest() == bundle.digest());
        let known = before.map(|before| before.code.clone()).unwrap_or_default();
        let code = self.code(&bundle, &fit.archs, known, telling).await?;
        Ok((Loaded { bundle, archive, only: cuda.function.clone(), code, gpus }, fit.notes))
    }
}

impl Loaded {
    /// The names of the functions that are served.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.functions().map(|function| function.name().to_owned()).collect()
    }
}

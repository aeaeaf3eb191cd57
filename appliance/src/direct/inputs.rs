//! The bytes of a run's inputs, one behind the other in sealed memory.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use bundle::{InputSource, Plan, PlannedBuffer};
use runner::memory::{self, MemoryError};
use tokio_util::bytes::Bytes;

use super::{Direct, DirectError, blocking};

const WHAT: &str = "inputs";

impl Direct {
    /// Gathers the inputs in the order of the plan; links are fetched one after the other, each by its planned size, so
    /// that no more than one of them is held twice.
    pub(super) async fn gather(&self, plan: &Plan, sources: Vec<InputSource>) -> Result<OwnedFd, DirectError> {
        let mut file = File::from(memory::blank(WHAT, 0)?);
        for (buffer, source) in plan.inputs().zip(sources) {
            let bytes = self.input(buffer, source).await?;
            let written = blocking(move || file.write_all(&bytes).map(|()| file));
            let failed = |source| MemoryError::Kernel { operation: "write", what: WHAT, source };
            file = written.await.map_err(failed)?;
        }
        memory::seal(WHAT, &file)?;
        Ok(file.into())
    }

    async fn input(&self, buffer: &PlannedBuffer, source: InputSource) -> Result<Bytes, DirectError> {
        let bytes: Bytes = match source {
            InputSource::Bytes(bytes) => bytes.into(),
            InputSource::Content(link) => {
                let what = format!("input `{}`", buffer.name);
                let fetched = self.content.fetch(&link, buffer.bytes).await;
                fetched.map_err(|source| DirectError::Fetch { what, source })?
            }
        };
        let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if found != buffer.bytes {
            let (buffer, expected) = (buffer.name.clone(), buffer.bytes);
            return Err(DirectError::Length { buffer, bytes: found, expected });
        }
        Ok(bytes)
    }
}

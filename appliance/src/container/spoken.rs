//! Both conversations with a service as plain bytes, without its jail: for fuzzers and the replay of what they found.
//!
//! The bytes go through the code that a jail's bytes go through; only the sockets are replaced, by pipes in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use axum::serve::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;
use work::TaskId;

use super::awaited::Awaited;
use super::callback::{self, Desk};
use super::exchange::{self, Method};
use crate::store::Store;

/// Bytes that a pipe holds.
const PIPE_BYTES: usize = 64 * 1024;

/// The largest body that is taken from a service here, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The token in the path of [`Booth`]'s callbacks.
pub const TOKEN: &str = "right";

/// The task that [`Booth`] waits for.
pub const TASK: TaskId = TaskId(Address::repeat_byte(7));

/// A callback listener whose one task is always waited for.
#[derive(Debug)]
pub struct Booth {
    desk: Desk,
}

impl Booth {
    /// Opens a listener that stores results in `dir`. `None` if nothing can be stored there.
    pub fn open(dir: &Path) -> Option<Booth> {
        let desk = Desk {
            token: TOKEN.to_owned(),
            awaited: Arc::new(Awaited::with_ahead(Duration::ZERO)),
            store: Arc::new(Store::open(dir).ok()?),
            result_bytes_max: u64::try_from(BODY_BYTES_MAX).ok()?,
        };
        Some(Booth { desk })
    }

    /// Takes everything that a service sends on one connection, and returns the answers and whether a result came.
    pub async fn hears(&self, sent: &[u8]) -> (Vec<u8>, bool) {
        let (theirs, ours) = duplex(PIPE_BYTES);
        let mut waiting = self.desk.awaited.expect(TASK);
        let stop = CancellationToken::new();
        let serve = callback::serve_on(One(Some(ours)), self.desk.clone(), stop.clone());
        let speak = async {
            let answers = speaks(theirs, sent).await;
            stop.cancel();
            answers
        };
        let ((), answers) = tokio::join!(serve, speak);
        let came =
            tokio::time::timeout(Duration::ZERO, waiting.returned()).await.is_ok_and(|returned| returned.is_ok());
        let _ = self.desk.store.clear(TASK);
        (answers, came)
    }
}

/// Reads what a service sends as its answer to a request. Returns its status and the size of its body.
pub async fn answered(sent: &[u8]) -> Option<(u16, usize)> {
    let (theirs, ours) = duplex(PIPE_BYTES);
    let ask = exchange::converse_on(ours, Method::Post(b"{}".to_vec()), "/run/f/t", BODY_BYTES_MAX);
    let (answer, _) = tokio::join!(ask, speaks(theirs, sent));
    answer.ok().map(|answer| (answer.status, answer.body.len()))
}

/// Sends `sent` and hangs up; returns what came back.
async fn speaks(stream: DuplexStream, sent: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut heard = Vec::new();
    let send = async {
        let _ = writer.write_all(sent).await;
        let _ = writer.shutdown().await;
    };
    let _ = tokio::join!(send, reader.read_to_end(&mut heard));
    heard
}

/// A source of one connection.
struct One(Option<DuplexStream>);

impl Listener for One {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.take() {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<()> {
        Ok(())
    }
}

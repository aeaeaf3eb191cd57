//! Keeps the rig's face up to date, for all who show it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::network::addresses;
use super::{Face, Machine, Plate};
use crate::gpus::Gpus;
use crate::identity::Seen;
use crate::provider::Parcel;
use crate::status::Question;

/// Time between two looks at the book.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Time between two questions to the runner: a GPU's state changes rarely, and asking reads its sensors.
const GPUS_EVERY: Duration = Duration::from_secs(30);

/// The newest face.
pub type Shown = watch::Receiver<Arc<Face>>;

/// What a face is made from.
#[derive(Debug)]
pub struct Sources {
    /// What does not change.
    pub plate: Plate,
    /// What the signer says.
    pub seen: watch::Receiver<Seen>,
    /// Who answers `rig status`.
    pub desk: mpsc::Sender<Parcel>,
    /// The GPUs; `None` where they are not used, and the runner is not asked.
    pub gpus: Option<Gpus>,
}

/// A face that is kept until `stop`. The first one says only who the rig is.
pub fn keep(sources: Sources, stop: CancellationToken) -> Shown {
    let first = Face::of(&sources.plate, &sources.seen.borrow(), &Value::Null, &Value::Null, Machine::now());
    let first = first.with_notices(&boot::notices::read(&sources.plate.notices));
    let (send, shown) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = look(sources, send) => {}
        }
    });
    shown
}

/// Looks until the provider ends.
async fn look(mut sources: Sources, send: watch::Sender<Arc<Face>>) {
    let mut gpus = Value::Null;
    let mut gpus_due = Instant::now();
    loop {
        if let Some(asked) = sources.gpus.as_ref().filter(|_| Instant::now() >= gpus_due) {
            gpus = asked.show().await;
            gpus_due = Instant::now() + GPUS_EVERY;
        }
        let (reply, answer) = oneshot::channel();
        if sources.desk.send(Parcel::Asked(Question::Status, reply)).await.is_err() {
            return;
        }
        let Ok(status) = answer.await else { return };
        let seen = sources.seen.borrow_and_update().clone();
        // Small files in memory, and some hundred of the kernel's; reading them takes no time worth a thread.
        let notices = boot::notices::read(&sources.plate.notices);
        let face = Face::of(&sources.plate, &seen, &status, &gpus, Machine::now()).with_notices(&notices);
        let face = face.with_network(addresses());
        send.send_replace(Arc::new(face));
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            changed = sources.seen.changed() => if changed.is_err() { tokio::time::sleep(LOOK_EVERY).await },
        }
    }
}

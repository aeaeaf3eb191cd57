//! QEMU's control socket: one JSON object per line; commands are answered in order, events come between.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::VmError;

/// How long QEMU may take to answer. A picture of the screen takes longest, a second on a busy computer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Answers that may wait; one is asked for at a time.
const ANSWERS_MAX: usize = 8;

/// Events that are kept; a machine without end makes few.
const EVENTS_MAX: usize = 4096;

/// A connection.
#[derive(Debug)]
pub(super) struct Control {
    line: Mutex<Line>,
    events: Arc<Mutex<Vec<Value>>>,
}

#[derive(Debug)]
struct Line {
    socket: UnixStream,
    answers: Receiver<Value>,
}

// === impl Control ===

impl Control {
    /// Speaks to QEMU over `socket`.
    pub(super) fn open(socket: UnixStream) -> Result<Control, VmError> {
        let fault = |said: String| VmError::Control { command: "listen".to_owned(), said };
        let reader = socket.try_clone().map_err(|error| fault(error.to_string()))?;
        let (sender, answers) = sync_channel(ANSWERS_MAX);
        let events = Arc::<Mutex<Vec<Value>>>::default();
        let kept = events.clone();
        let thread = std::thread::Builder::new().name("vm-control".to_owned());
        thread.spawn(move || listen(reader, &sender, &kept)).map_err(VmError::Prepare)?;
        let control = Control { line: Mutex::new(Line { socket, answers }), events };
        control.ask("qmp_capabilities", json!({}))?;
        Ok(control)
    }

    /// Has QEMU do something, and returns what it answers.
    pub(super) fn ask(&self, command: &str, arguments: Value) -> Result<Value, VmError> {
        let fault = |said: String| VmError::Control { command: command.to_owned(), said };
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let order = json!({ "execute": command, "arguments": arguments });
        writeln!(line.socket, "{order}").map_err(|error| fault(error.to_string()))?;
        let mut answer = line.answers.recv_timeout(ANSWER_WITHIN).map_err(|error| fault(error.to_string()))?;
        match answer.get("error") {
            Some(error) => Err(fault(error["desc"].as_str().unwrap_or("an error without words").to_owned())),
            None => Ok(answer["return"].take()),
        }
    }

    /// Whether an event happened, and the data of the newest of its kind.
    pub(super) fn event(&self, name: &str) -> Option<Value> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().rev().find(|event| event["event"] == name).map(|event| event["data"].clone())
    }
}

/// Sorts what comes until QEMU ends.
fn listen(socket: UnixStream, answers: &SyncSender<Value>, events: &Mutex<Vec<Value>>) {
    for line in BufReader::new(socket).lines() {
        let Ok(line) = line else { return };
        let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
        if said.get("event").is_some() {
            let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
            if events.len() < EVENTS_MAX {
                events.push(said);
            }
        } else if said.get("QMP").is_none() && answers.try_send(said).is_err() {
            return;
        }
    }
}

//! One TPM, one connection, one command at a time.
//!
//! Invariant: what a command opens is written down before its answer is read further, so that it is flushed on every
//! way out; what cannot be flushed then is tried again when the connection is given up.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tpm2_protocol::data::TpmRcBase as Rc;
use zeroize::Zeroizing;

use crate::answer::{Answer, Asked};
use crate::transport::{FRAME_MAX, HEADER, Transport};
use crate::wire::Writer;
use crate::{Fault, Place};

/// TPM_RS_PW.
const PASSWORD: u32 = 0x4000_0009;
/// TPMA_SESSION: the session stays, and is flushed by us.
pub(crate) const CONTINUE_SESSION: u8 = 1;

/// Times that a command is sent which the TPM asks to be sent again. With the pauses below, about two seconds: a chip's
/// self-test takes less than one.
const ATTEMPTS_MAX: u32 = 8;
/// Pause before the second attempt; each further one is twice as long, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A connection to a TPM. Blocks: a chip's signature takes up to a second.
///
/// A TPM has room for three objects. Of [`crate::Srk`], [`crate::Loaded`] and what a call opens for its own use, never
/// keep more than two when sealing or opening.
///
/// A connection that failed, or broke off within a frame, is out of step and refuses everything: open another.
#[derive(Debug)]
pub struct Tpm {
    transport: Option<Transport>,
    /// Objects and sessions that this connection opened, oldest first.
    open: Vec<u32>,
}

/// A command, with empty passwords and plain policy sessions.
#[derive(Debug)]
pub(crate) struct Command {
    asked: Asked,
    handles: Writer,
    authorisations: Writer,
    parameters: Writer,
}

// === impl Command ===

impl Command {
    pub(crate) fn new(asked: Asked) -> Self {
        Self { asked, handles: Writer::new(), authorisations: Writer::new(), parameters: Writer::new() }
    }

    /// A handle that needs no authorisation here, or gets it from a session that is given elsewhere.
    pub(crate) fn handle(mut self, handle: u32) -> Self {
        self.handles = self.handles.u32(handle);
        self
    }

    /// A handle whose password is empty.
    pub(crate) fn owned_handle(self, handle: u32) -> Self {
        let mut this = self.handle(handle);
        this.authorisations = this.authorisations.u32(PASSWORD).sized(&[]).u8(CONTINUE_SESSION).sized(&[]);
        this
    }

    /// A handle whose policy `session` satisfied; a session without salt, so without a proof.
    pub(crate) fn handle_by_policy(self, handle: u32, session: u32) -> Self {
        let mut this = self.handle(handle);
        this.authorisations = this.authorisations.u32(session).sized(&[]).u8(CONTINUE_SESSION).sized(&[]);
        this
    }

    pub(crate) fn parameters(mut self, parameters: Writer) -> Self {
        self.parameters = parameters;
        self
    }

    pub(crate) fn asked(&self) -> Asked {
        self.asked
    }

    pub(crate) fn handle_bytes(&self) -> &[u8] {
        self.handles.as_bytes()
    }

    pub(crate) fn parameter_bytes(&self) -> &[u8] {
        self.parameters.as_bytes()
    }
}

// === impl Tpm ===

impl Tpm {
    /// Connects to a TPM. Says nothing to it yet.
    ///
    /// # Errors
    ///
    /// [`Fault::Absent`] where nothing answers at `place`.
    pub fn open(place: &Place) -> Result<Self, Fault> {
        Ok(Self { transport: Some(Transport::open(place)?), open: Vec::new() })
    }

    /// Sends one frame as it is and gives the answer as it is: for commands that have no word here. What it opens is
    /// not flushed.
    ///
    /// # Errors
    ///
    /// Only of the connection: what the TPM refuses is an answer.
    pub fn exchange(&mut self, frame: &[u8]) -> Result<Vec<u8>, Fault> {
        if frame.len() > FRAME_MAX {
            return Err(Fault::TooLong { what: "the frame", bytes: frame.len(), max: FRAME_MAX });
        }
        self.send("a command", frame)
    }

    pub(crate) fn run(&mut self, command: &Command) -> Result<Answer, Fault> {
        let has_sessions = !command.authorisations.as_bytes().is_empty();
        let authorisations = has_sessions.then(|| command.authorisations.as_bytes());
        self.run_frame(command.asked, command.handle_bytes(), authorisations, command.parameter_bytes())
    }

    /// Sends a command until the TPM does not ask for it again, and writes down what it opened.
    pub(crate) fn run_frame(
        &mut self,
        asked: Asked,
        handles: &[u8],
        authorisations: Option<&[u8]>,
        parameters: &[u8],
    ) -> Result<Answer, Fault> {
        let length = HEADER + handles.len() + authorisations.map_or(0, |bytes| 4 + bytes.len()) + parameters.len();
        if length > FRAME_MAX {
            return Err(Fault::TooLong { what: "the command", bytes: length, max: FRAME_MAX });
        }
        let count = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let tag = if authorisations.is_some() { 0x8002 } else { 0x8001 };
        let mut frame = Writer::new().u16(tag).u32(count(length)).u32(asked.code() as u32).bytes(handles);
        if let Some(authorisations) = authorisations {
            frame = frame.u32(count(authorisations.len())).bytes(authorisations);
        }
        let frame = frame.bytes(parameters).into_bytes();

        let mut pause = PAUSE;
        for attempt in 1.. {
            let received = Zeroizing::new(self.send(asked.name(), &frame)?);
            match Answer::of(asked, authorisations.is_some(), &received) {
                Err(Fault::Refused { code, .. })
                    if attempt < ATTEMPTS_MAX && matches!(code.base(), Some(Rc::Retry | Rc::Yielded | Rc::Testing)) =>
                {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(fault) => return Err(fault),
                Ok(answer) => {
                    if asked.opens_handle() {
                        self.open.push(answer.handle()?);
                    }
                    return Ok(answer);
                }
            }
        }
        Err(asked.nonsense("it asks to be asked again without end"))
    }

    /// Does something, and flushes what it opened.
    pub(crate) fn scoped<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let before = self.open.len();
        let outcome = act(self);
        self.flush_since(before);
        outcome
    }

    /// Does something that opens what its caller keeps; flushes what it opened if it fails.
    pub(crate) fn opening<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let before = self.open.len();
        let outcome = act(self);
        if outcome.is_err() {
            self.flush_since(before);
        }
        outcome
    }

    /// Flushes an object or a session that this connection opened; does nothing about any other.
    pub(crate) fn flush_handle(&mut self, handle: u32) -> Result<(), Fault> {
        let Some(at) = self.open.iter().rposition(|open| *open == handle) else { return Ok(()) };
        self.run(&Command::new(Asked::FlushContext).parameters(Writer::new().u32(handle)))?;
        self.open.remove(at);
        Ok(())
    }

    fn flush_since(&mut self, before: usize) {
        let opened: Vec<u32> = self.open.get(before..).unwrap_or_default().to_vec();
        for handle in opened.into_iter().rev() {
            // What could not be flushed stays written down, for the end of the connection.
            let _ = self.flush_handle(handle);
        }
    }

    fn send(&mut self, command: &'static str, frame: &[u8]) -> Result<Vec<u8>, Fault> {
        use crate::transport::Broken;
        let Some(transport) = &mut self.transport else {
            return Err(Fault::Io { step: "write to", source: io::Error::from(ErrorKind::NotConnected) });
        };
        transport.exchange(frame).map_err(|broken| {
            self.give_up();
            match broken {
                Broken::Io(step, source) => Fault::Io { step, source },
                Broken::Nonsense(why) => Fault::Nonsense { command, why },
            }
        })
    }

    fn give_up(&mut self) {
        self.transport = None;
        self.open.clear();
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        self.flush_since(0);
    }
}

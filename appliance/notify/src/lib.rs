//! Tells systemd how a service of the rig is: that it is ready, what it does, that it ends.
//!
//! Owns the words of the protocol (`sd_notify(3)`) and one datagram socket. Never reads anything, never starts anything,
//! and knows nothing of what the service is for. [`Notifier`] is all there is.
//!
//! Invariants: the socket is made once, by [`Notifier::from_environment`], so that a service may give up the right to
//! make sockets afterwards; nothing here fails a service, for a rig whose state nobody hears of still earns; a manager
//! that does not listen delays a service by at most [`SEND_MAX`] for each word.
//!
//! Why not a crate: those that exist make a new socket for each message, which the signer's filter kills it for.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where systemd listens: a path, or with `@` in front a name in the abstract namespace.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Longest wait for a manager whose queue is full.
const SEND_MAX: Duration = Duration::from_secs(2);

/// Bytes of a status at most: one line of `systemctl status`, and far below what a datagram holds.
pub const STATUS_BYTES_MAX: usize = 200;

/// The way to systemd. Without one, as on a development machine, every word is dropped.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
}

// === impl Notifier ===

impl Notifier {
    /// To whoever `NOTIFY_SOCKET` names. To nobody if it names none, or none that can be reached.
    pub fn from_environment() -> Self {
        let place = std::env::var_os(VARIABLE);
        Self { socket: place.and_then(|place| connect(&place).ok()) }
    }

    /// To nobody.
    pub fn silent() -> Self {
        Self { socket: None }
    }

    /// Whether anybody hears.
    pub fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// The service does what it is for from now on, and `status` says what that is at the moment.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// What the service is doing, in plain words, for whoever looks.
    pub fn status(&self, status: &str) {
        self.say(&format!("STATUS={}", one_line(status)));
    }

    /// The service has begun to end; `status` says what it still does.
    pub fn stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    fn say(&self, words: &str) {
        if let Some(socket) = &self.socket {
            // Unheard, and no reason to stop.
            let _ = socket.send(words.as_bytes());
        }
    }
}

fn connect(place: &OsStr) -> io::Result<UnixDatagram> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    Ok(socket)
}

/// A line end would begin another word of the protocol.
fn one_line(status: &str) -> String {
    let mut line = String::with_capacity(status.len().min(STATUS_BYTES_MAX));
    for sign in status.chars().map(|sign| if sign.is_control() { ' ' } else { sign }) {
        if line.len() + sign.len_utf8() > STATUS_BYTES_MAX {
            break;
        }
        line.push(sign);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let length = listener.recv(&mut bytes).expect("a word");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn what_is_said_arrives_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let name = format!("rig-notify-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).expect("a name");
        for (listener, place) in [
            (UnixDatagram::bind(&path), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address), format!("@{name}").into()),
        ] {
            let listener = listener.expect("bound");
            let notifier = Notifier { socket: Some(connect(&place).expect("connected")) };
            notifier.status("asks who signs");
            notifier.ready("works");
            notifier.stopping("finishes 2 tasks");
            assert_eq!(heard(&listener), "STATUS=asks who signs");
            assert_eq!(heard(&listener), "READY=1\nSTATUS=works");
            assert_eq!(heard(&listener), "STOPPING=1\nSTATUS=finishes 2 tasks");
        }
    }

    #[test]
    fn a_status_is_one_short_line_whatever_it_says() {
        assert_eq!(one_line("a\nREADY=1"), "a READY=1");
        assert_eq!(one_line(&"\u{e4}".repeat(500)).len(), STATUS_BYTES_MAX);
    }

    #[test]
    fn a_manager_that_is_gone_or_was_never_there_is_no_trouble() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        assert!(connect(path.as_os_str()).is_err());
        let listener = UnixDatagram::bind(&path).expect("bound");
        let notifier = Notifier { socket: connect(path.as_os_str()).ok() };
        drop(listener);
        notifier.ready("works");
        Notifier::silent().ready("works");
    }

    #[test]
    fn a_manager_that_does_not_listen_holds_nobody_up_for_long() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).expect("bound");
        let notifier = Notifier { socket: connect(path.as_os_str()).ok() };
        let socket = notifier.socket.as_ref().expect("connected");
        socket.set_nonblocking(true).expect("a setting");
        while socket.send(b"STATUS=more").is_ok() {}
        socket.set_nonblocking(false).expect("a setting");
        socket.set_write_timeout(Some(Duration::from_millis(20))).expect("a setting");
        let began = std::time::Instant::now();
        notifier.status("unheard");
        assert!(began.elapsed() < SEND_MAX);
    }
}

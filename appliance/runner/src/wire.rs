//! How one message travels: one datagram of a `SOCK_SEQPACKET` Unix socket, JSON, beside it descriptors.
//!
//! Invariants: a message is read whole or refused; received descriptors are close-on-exec from the moment
//! that they exist; descriptors that nobody expected are closed.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::MESSAGE_BYTES_MAX;

/// The most descriptors beside one message; more than any has.
/// Below the kernel's own `SCM_MAX_FD` of 253.
pub const FDS_MAX: usize = 132;

/// Room for [`FDS_MAX`] descriptors and their header; `cmsg_space!` gives no array length for a constant.
const ANCILLARY_BYTES: usize = 4 * FDS_MAX + 64;

/// A message that did not get through.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed; a time-out is [`rustix::io::Errno::AGAIN`].
    #[error("{operation} a message on the runner's socket")]
    Socket {
        /// `send`, `receive`, or `limit`: to set a time-out.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: rustix::io::Errno,
    },
    /// The other end closed.
    #[error("the other end closed the runner's socket")]
    Closed,
    /// More than [`MESSAGE_BYTES_MAX`], or more descriptors than [`FDS_MAX`].
    #[error("a message of more than {MESSAGE_BYTES_MAX} bytes or {FDS_MAX} descriptors")]
    TooLarge,
    /// Not the JSON that was expected.
    #[error("a message that is not understood")]
    Json(#[source] serde_json::Error),
}

/// Sends `message` and duplicates of `fds`.
///
/// # Errors
/// [`WireError::TooLarge`] before anything is sent; [`WireError::Socket`] if the peer is gone.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
    let bytes = serde_json::to_vec(message).map_err(WireError::Json)?;
    if bytes.len() > MESSAGE_BYTES_MAX || fds.len() > FDS_MAX {
        return Err(WireError::TooLarge);
    }
    let mut space = [MaybeUninit::<u8>::uninit(); ANCILLARY_BYTES];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(WireError::TooLarge);
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL);
    sent.map(drop).map_err(|source| WireError::Socket { operation: "send", source })
}

/// Receives one message and the descriptors beside it.
///
/// # Errors
/// Each [`WireError`]; after [`WireError::Json`] and [`WireError::TooLarge`] the socket is still usable.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<(T, Vec<OwnedFd>), WireError> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX + 1];
    let mut space = [MaybeUninit::<u8>::uninit(); ANCILLARY_BYTES];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let buffers = &mut [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(source) => return Err(WireError::Socket { operation: "receive", source }),
            Ok(received) => break received,
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || received.bytes > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge);
    }
    if received.bytes == 0 {
        return Err(WireError::Closed);
    }
    let message = serde_json::from_slice(&bytes[..received.bytes]).map_err(WireError::Json)?;
    Ok((message, fds))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket pair")
    }

    #[test]
    fn a_descriptor_arrives_beside_its_message() {
        let (near, far) = pair();
        let (passed, kept) = pair();
        send(&near, &"take this", &[passed.as_fd()]).expect("send");
        drop(passed);
        let (text, fds) = receive::<String>(&far).expect("receive");
        assert_eq!((text.as_str(), fds.len()), ("take this", 1));
        send(&fds[0], &1, &[]).expect("the passed socket works");
        assert_eq!(receive::<u8>(&kept).expect("receive").0, 1);
    }

    #[test]
    fn an_oversize_message_is_refused_by_both_ends() {
        let (near, far) = pair();
        let long = "x".repeat(MESSAGE_BYTES_MAX);
        assert!(matches!(send(&near, &long, &[]), Err(WireError::TooLarge)));
        rustix::net::send(&near, &vec![b' '; MESSAGE_BYTES_MAX + 1], SendFlags::empty()).expect("send raw");
        assert!(matches!(receive::<String>(&far), Err(WireError::TooLarge)));
    }

    #[test]
    fn a_closed_socket_is_not_an_empty_message() {
        let (near, far) = pair();
        drop(near);
        assert!(matches!(receive::<String>(&far), Err(WireError::Closed)));
    }
}

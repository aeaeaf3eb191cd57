//! The worker's end of its socket.
//!
//! The other end is the runner, which is trusted; what passes is the same as with the runner's own messages: one JSON
//! datagram of a `SOCK_SEQPACKET` socket, and descriptors beside it. It is written again here, and not taken from
//! there, because the runner uses this crate's messages, and so that nothing of the runner is in the worker.
//!
//! Invariants: a message is read whole or refused; descriptors are close-on-exec from the moment that they exist; no
//! descriptor is ever sent.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use cuda::messages::MESSAGE_BYTES_MAX;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv,
    recvmsg, sendmsg, shutdown,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most messages that are dropped unread; a socket's queue holds ten (`net.unix.max_dgram_qlen`) unless told otherwise.
const DROPPED_MAX: usize = 4096;

/// The most descriptors beside a message: the bundle, the inputs, the outputs, and a cubin for each of 32 modules.
pub(crate) const FDS_MAX: usize = 35;

/// Room for [`FDS_MAX`] descriptors and their header; `cmsg_space!` gives no array length for a constant.
const ANCILLARY_BYTES: usize = 4 * FDS_MAX + 64;

/// A message that did not get through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// The socket failed.
    #[error("{operation} a message on the worker's socket")]
    Socket {
        /// `send` or `receive`.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: rustix::io::Errno,
    },
    /// More than [`MESSAGE_BYTES_MAX`], or more descriptors than there is room for.
    #[error("a message of more than {MESSAGE_BYTES_MAX} bytes, or with too many descriptors")]
    TooLarge,
    /// Not the JSON that was expected.
    #[error("a message that is not understood: is the other end of the same version?")]
    Json(#[source] serde_json::Error),
}

/// Sends `message`.
pub(crate) fn send<T: Serialize>(socket: impl AsFd, message: &T) -> Result<(), SocketError> {
    let bytes = serde_json::to_vec(message).map_err(SocketError::Json)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(SocketError::TooLarge);
    }
    let sent = sendmsg(socket, &[IoSlice::new(&bytes)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
    sent.map(drop).map_err(|source| SocketError::Socket { operation: "send", source })
}

/// Waits for a message, for as long as it takes; nothing if the other end closed.
pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<Option<(T, Vec<OwnedFd>)>, SocketError> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX + 1];
    let mut space = [MaybeUninit::<u8>::uninit(); ANCILLARY_BYTES];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let buffers = &mut [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // The other end died with something unread: that is closed, too.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(source) => return Err(SocketError::Socket { operation: "receive", source }),
            Ok(received) => break received,
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || fds.len() > FDS_MAX {
        return Err(SocketError::TooLarge);
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes[..received.bytes]).map_err(SocketError::Json)?;
    Ok(Some((message, fds)))
}

/// Takes no more messages: later ones do not leave the other end, and those that are here are dropped, with their
/// descriptors. If one were still unread when this process ends, the other end would be told of a reset, before the
/// answer that it waits for.
pub(crate) fn stop_listening(socket: impl AsFd) {
    // A peer that is gone already is as silent as one that is told to be.
    let _ = shutdown(&socket, Shutdown::Read);
    for _ in 0..DROPPED_MAX {
        let mut byte = [0_u8; 1];
        match recv(&socket, &mut byte, RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

//! Frames to a TPM and back, over a device or a socket.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::wire::{Reader, Short};
use crate::{Fault, Place};

/// Longest frame, bytes: what the kernel's driver takes and gives.
pub(crate) const FRAME_MAX: usize = 4096;
/// Tag, size and code.
pub(crate) const HEADER: usize = 10;
/// How long a socket may keep silent. The kernel's driver allows a chip's slowest command 5 minutes; an emulator makes an
/// RSA key in seconds.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// A connection.
#[derive(Debug)]
pub(crate) enum Transport {
    Device(File),
    Socket(UnixStream),
}

/// A failure between two frames.
#[derive(Debug)]
pub(crate) enum Broken {
    Io(&'static str, io::Error),
    Nonsense(&'static str),
}

// === impl Transport ===

impl Transport {
    pub(crate) fn open(place: &Place) -> Result<Self, Fault> {
        let opened = match place {
            Place::Device(path) => OpenOptions::new().read(true).write(true).open(path).map(Self::Device),
            Place::Socket(path) => UnixStream::connect(path).and_then(|socket| {
                socket.set_read_timeout(Some(SILENCE_MAX))?;
                socket.set_write_timeout(Some(SILENCE_MAX))?;
                Ok(Self::Socket(socket))
            }),
        };
        opened.map_err(|source| match is_nothing_there(&source) {
            true => Fault::Absent { place: place.clone() },
            false => Fault::Io { step: "open", source },
        })
    }

    /// Sends a frame and takes the answer, whole.
    pub(crate) fn exchange(&mut self, frame: &[u8]) -> Result<Vec<u8>, Broken> {
        let write = |error| Broken::Io("write to", error);
        match self {
            Self::Device(file) => {
                file.write_all(frame).map_err(write)?;
                receive(file)
            }
            Self::Socket(socket) => {
                socket.write_all(frame).map_err(write)?;
                receive(socket)
            }
        }
    }
}

/// ENODEV and ENXIO are a device file without a device; a refused connection is a socket without a process.
fn is_nothing_there(error: &io::Error) -> bool {
    const ENXIO: i32 = 6;
    const ENODEV: i32 = 19;
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory)
        || matches!(error.raw_os_error(), Some(ENXIO | ENODEV))
}

/// Takes one frame of at most [`FRAME_MAX`] bytes. A device gives it in one read; a socket may give it in pieces.
pub(crate) fn receive(from: &mut impl Read) -> Result<Vec<u8>, Broken> {
    let mut frame = vec![0; FRAME_MAX];
    let mut filled = 0;
    let mut expected = None;
    loop {
        let count = match from.read(&mut frame[filled..]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Broken::Io("read from", error)),
            Ok(count) => count,
        };
        if count == 0 {
            return Err(match filled {
                0 => Broken::Io("read from", ErrorKind::UnexpectedEof.into()),
                _ => Broken::Nonsense("it ends too early"),
            });
        }
        filled += count;
        if expected.is_none() && filled >= HEADER {
            expected = Some(size(&frame[..filled])?);
        }
        match expected {
            Some(expected) if filled > expected => return Err(Broken::Nonsense("something follows its end")),
            Some(expected) if filled == expected => {
                frame.truncate(filled);
                return Ok(frame);
            }
            Some(_) | None => {}
        }
    }
}

fn size(frame: &[u8]) -> Result<usize, Broken> {
    let read = || {
        let mut reader = Reader::new(frame);
        reader.u16()?;
        usize::try_from(reader.u32()?).map_err(|_| Short("it says that it is longer than a frame may be"))
    };
    match read() {
        Ok(size) if size < HEADER => Err(Broken::Nonsense("it says that it is shorter than its header")),
        Ok(size) if size > FRAME_MAX => Err(Broken::Nonsense("it says that it is longer than a frame may be")),
        Ok(size) => Ok(size),
        Err(Short(why)) => Err(Broken::Nonsense(why)),
    }
}

//! A part of a disk, read as if it were a file of its own.

use std::io::{self, Read, Seek, SeekFrom};

/// The bytes of `inside` from `offset` on, `bytes` long. Reading stops at its end, whatever lies behind.
#[derive(Debug)]
pub struct Window<R> {
    inside: R,
    offset: u64,
    bytes: u64,
    at: u64,
}

// === impl Window ===

impl<R: Read + Seek> Window<R> {
    /// A window onto `inside`; it may reach beyond what is there, and then reads as much as there is.
    pub fn new(inside: R, offset: u64, bytes: u64) -> Window<R> {
        Window { inside, offset, bytes: bytes.min(u64::MAX - offset), at: 0 }
    }
}

impl<R: Read + Seek> Read for Window<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = into.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        // Every time, because two windows may look at one file.
        self.inside.seek(SeekFrom::Start(self.offset + self.at))?;
        let read = self.inside.read(&mut into[..wanted])?;
        self.at += u64::try_from(read).map_err(io::Error::other)?;
        Ok(read)
    }
}

impl<R: Read + Seek> Seek for Window<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a seek to before the start"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_window_shows_its_bytes_and_no_more() {
        let mut window = Window::new(Cursor::new(b"0123456789".to_vec()), 3, 4);
        let mut read = String::new();
        window.read_to_string(&mut read).expect("it is text");
        assert_eq!(read, "3456");
        assert_eq!(window.seek(SeekFrom::End(-1)).expect("it is inside"), 3);
        let mut last = [0; 4];
        assert_eq!(window.read(&mut last).expect("it reads"), 1);
        assert_eq!(last[0], b'6');
        assert!(window.seek(SeekFrom::Current(-9)).is_err());
    }

    #[test]
    fn a_window_beyond_the_end_is_empty_and_never_wraps() {
        let mut window = Window::new(Cursor::new(vec![1, 2]), u64::MAX - 1, u64::MAX);
        let mut read = Vec::new();
        window.read_to_end(&mut read).expect("it is empty");
        assert!(read.is_empty());
        assert_eq!(window.seek(SeekFrom::Start(u64::MAX)).expect("beyond is allowed"), u64::MAX);
        assert_eq!(window.read(&mut [0; 4]).expect("nothing is there"), 0);
    }
}

//! `rig` in a terminal, and a person who reads and types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

/// Far longer than `rig` takes to say anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program in a terminal of its own. Dropping it ends the program.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    said: Arc<(Mutex<String>, Condvar)>,
    /// Bytes of `said` that were read already.
    read: usize,
}

impl Terminal {
    pub(crate) fn run(mut command: Command) -> Terminal {
        let size = Winsize { ws_row: 60, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        // Its ends of the terminal; reading must come to an end when the program does.
        drop((command, pty.slave));
        let said = Arc::new((Mutex::new(String::new()), Condvar::new()));
        listen(pty.master.try_clone().unwrap(), Arc::clone(&said));
        Terminal { child, keyboard: File::from(pty.master), said, read: 0 }
    }

    /// Waits until `words` are said, after those that were waited for before.
    pub(crate) fn reads(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        let (said, more) = &*self.said;
        let mut said = said.lock().unwrap();
        loop {
            if let Some(at) = said[self.read..].find(words) {
                self.read += at + words.len();
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{words:?} is not said, but {:?}", &said[self.read..]);
            said = more.wait_timeout(said, left).unwrap().0;
        }
    }

    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Whether what is typed is shown.
    pub(crate) fn echoes(&self) -> bool {
        tcgetattr(&self.keyboard).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    /// Waits for the end, and returns the exit code and all that was said.
    pub(crate) fn ends(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let (said, _) = &*self.said;
        (code, said.lock().unwrap().clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended as part of the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(master: OwnedFd, said: Arc<(Mutex<String>, Condvar)>) {
    std::thread::spawn(move || {
        let mut master = File::from(master);
        let mut bytes = [0; 4096];
        let mut rest = Vec::new();
        // The other side's end is an error here.
        while let Ok(count @ 1..) = master.read(&mut bytes) {
            rest.extend_from_slice(&bytes[..count]);
            let whole = std::str::from_utf8(&rest).map_or_else(|error| error.valid_up_to(), str::len);
            let text: Vec<u8> = rest.drain(..whole).collect();
            said.0.lock().unwrap().push_str(std::str::from_utf8(&text).unwrap());
            said.1.notify_all();
        }
    });
}

//! Questions to the person at the terminal.
//!
//! Invariants: nobody is asked where there is no terminal; what is typed as a secret is not shown, is read without a
//! buffer that outlives it, and is wiped; the terminal is left as it was found.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write, stderr, stdin};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Nobody types more in one line; a terminal itself takes 4,095.
const LINE_BYTES_MAX: usize = 1024;

/// What a terminal sends for Ctrl-C once it is not a signal.
const INTERRUPT: u8 = 0x03;

/// Where a person types.
enum Keyboard {
    Stdin(io::Stdin),
    /// The terminal of this process, where its input comes from somewhere else.
    Terminal(File),
}

/// A terminal that does not show what is typed, until it is dropped.
struct Hidden<'a> {
    keyboard: &'a Keyboard,
    before: Termios,
}

/// Whether somebody is there to be asked: questions are seen, and answers come from a terminal.
pub(crate) fn is_there() -> bool {
    stderr().is_terminal() && stdin().is_terminal()
}

/// Asks `question`. Everything but a yes is a no.
pub(crate) fn agrees(question: &str) -> io::Result<bool> {
    say(&format!("{question} [y/N] "))?;
    let line = Keyboard::find()?.line()?;
    let words = String::from_utf8_lossy(&line).trim().to_lowercase();
    Ok(["y", "yes"].contains(&words.as_str()))
}

/// Asks `question`; the answer is one line, without blanks around it.
pub(crate) fn answer(question: &str) -> io::Result<String> {
    say(question)?;
    let line = Keyboard::find()?.line()?;
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

/// Asks for something that the terminal must not show.
///
/// Errors: there is no terminal; `Interrupted` after Ctrl-C.
pub(crate) fn secret(prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let keyboard = Keyboard::find()?;
    let hidden = Hidden::begin(&keyboard)?;
    say(prompt)?;
    let line = keyboard.line();
    drop(hidden);
    say("\n")?;
    line
}

fn say(words: &str) -> io::Result<()> {
    let mut out = stderr().lock();
    out.write_all(words.as_bytes()).and_then(|()| out.flush())
}

// === impl Keyboard ===

impl Keyboard {
    fn find() -> io::Result<Keyboard> {
        if stdin().is_terminal() {
            return Ok(Keyboard::Stdin(stdin()));
        }
        Ok(Keyboard::Terminal(OpenOptions::new().read(true).write(true).open("/dev/tty")?))
    }

    /// One line, without its end.
    fn line(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX));
        let mut byte = Zeroizing::new([0_u8; 1]);
        loop {
            let count = match nix::unistd::read(self.as_fd(), byte.as_mut_slice()) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            match byte[0] {
                _ if count == 0 && line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                INTERRUPT => return Err(io::ErrorKind::Interrupted.into()),
                b'\n' | b'\r' => return Ok(line),
                _ if count == 0 => return Ok(line),
                _ if line.len() == LINE_BYTES_MAX => {
                    return Err(io::Error::other(format!("a line of more than {LINE_BYTES_MAX} bytes")));
                }
                typed => line.push(typed),
            }
        }
    }
}

impl AsFd for Keyboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Keyboard::Stdin(stdin) => stdin.as_fd(),
            Keyboard::Terminal(file) => file.as_fd(),
        }
    }
}

// === impl Hidden ===

impl Hidden<'_> {
    fn begin(keyboard: &Keyboard) -> io::Result<Hidden<'_>> {
        let before = tcgetattr(keyboard)?;
        let mut hidden = before.clone();
        // Ctrl-C ends the line instead of the process, which would leave the terminal mute.
        hidden.local_flags &= !(LocalFlags::ECHO | LocalFlags::ISIG);
        hidden.control_chars[SpecialCharacterIndices::VEOL as usize] = INTERRUPT;
        tcsetattr(keyboard, SetArg::TCSANOW, &hidden)?;
        Ok(Hidden { keyboard, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no repair.
        let _ = tcsetattr(self.keyboard, SetArg::TCSANOW, &self.before);
    }
}

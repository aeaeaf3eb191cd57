//! A network namespace of its own: for a machine in QEMU, the local network beside it, and nobody else.
//!
//! QEMU's user network shows the guest this machine's 127.0.0.1 as [`HOST`]. A link in a source or a response is one
//! text for both sides, so on an island [`HOST`] leads to 127.0.0.1 for this side's programs as well. Nothing leads
//! anywhere else: there is only the loopback interface.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

/// This machine, as the guest and its own programs call it. Source: QEMU's documentation of `-netdev user`.
pub const HOST: &str = "10.0.2.2";

/// Leads to 127.0.0.1 what is sent to [`HOST`].
const RULES: &str = "table ip island {
    chain out {
        type nat hook output priority -100;
        ip daddr 10.0.2.2 dnat to 127.0.0.1
    }
}
";

/// Moves the calling thread, and whatever it starts from now on, to an island of its own. Threads that run already stay
/// where they are, so a runtime is built after this.
///
/// Errors: it needs root, `ip` and `nft`.
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own, which needs root")?;
    run("ip", &["link", "set", "lo", "up"], "")?;
    run("ip", &["address", "add", "10.0.2.2/32", "dev", "lo"], "")?;
    run("nft", &["-f", "-"], RULES)
}

/// The same text with every mention of 127.0.0.1 as the guest has to write it.
pub fn as_seen(text: &str) -> String {
    text.replace("127.0.0.1", HOST)
}

fn run(program: &str, words: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(words)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program}; tests/setup.sh installs it"))?;
    child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program} {}: {said}", words.join(" "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn on_an_island_the_host_is_this_machine_and_there_is_nobody_else() {
        enter().expect("root");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("an address").port();
        let thread = std::thread::spawn(move || {
            listener.accept().expect("a visitor").0.write_all(b"home").expect("the visitor listens");
        });
        let mut said = String::new();
        TcpStream::connect((HOST, port)).and_then(|mut stream| stream.read_to_string(&mut said)).expect("an answer");
        assert_eq!(said, "home");
        thread.join().expect("the host");
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        assert!(socket.connect("192.0.2.1:9").is_err(), "there is a way out");
    }
}

//! What runs inside the jails when a service is the attack: `stranger NAME [ARGUMENT…]`.
//!
//! It answers badly, calls back too often, and leaves things in its volumes. The verdict is taken outside.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

/// Where callbacks are awaited, in every source's network.
const CALLBACK: &str = "10.88.0.1:20000";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["mute", port] => mute(port),
        ["deaf", port] => deaf(port),
        ["drip", port] => drip(port),
        ["call", ref texts @ ..] => texts.iter().try_for_each(|text| call(text)),
        ["forge"] => forge(),
        ["leave", ref what @ ..] => leave(what),
        ["open", ref paths @ ..] => open(paths),
        _ => {
            println!("stranger: there is no {words:?}");
            return ExitCode::from(64);
        }
    };
    println!("{}: {done:?}", words[0]);
    println!("attacked");
    if words[0] == "forge" {
        return ExitCode::from(7);
    }
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Takes every connection, and says nothing.
fn mute(port: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("serving");
    let mut kept = Vec::new();
    for stream in listener.incoming() {
        kept.push(stream?);
    }
    Ok(())
}

/// Opens its port, and never takes a connection.
fn deaf(port: &str) -> std::io::Result<()> {
    let port: u16 = port.parse().map_err(std::io::Error::other)?;
    let listener: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&listener, &std::net::SocketAddr::from(([0, 0, 0, 0], port)))?;
    listen(&listener, 0)?;
    println!("serving");
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Answers for ever, a byte at a time.
fn drip(port: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("serving");
    for mut stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            while stream.write_all(b"H").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
    }
    Ok(())
}

fn call(text: &str) -> std::io::Result<()> {
    TcpStream::connect(CALLBACK)?.write_all(text.as_bytes())
}

/// Says that it has ended well, to every descriptor that it can name.
fn forge() -> std::io::Result<()> {
    let words = [&br#"{"Exit":{"code":0}}"#[..], br#"{"Health":"healthy"}"#, br#""Ready""#];
    for pid in ["self", "1", "thread-self"] {
        for fd in 0..256 {
            // The standard streams are the service's to write to: what arrives there is its log.
            let Ok(mut file) = OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/{fd}")) else { continue };
            println!("opened {fd} of {pid}");
            words.iter().for_each(|word| drop(file.write_all(word)));
        }
    }
    for fd in 3..256 {
        // Whatever has this number, if anything has: that is the question.
        let Ok(link) = fs::read_link(format!("/proc/self/fd/{fd}")) else { continue };
        println!("has {fd}: {}", link.display());
    }
    Ok(())
}

/// `leave KIND PATH [TARGET]…`
fn leave(words: &[&str]) -> std::io::Result<()> {
    for what in words.split(|word| *word == ",") {
        match what {
            ["link", path, target] => symlink(target, path)?,
            ["text", path, text] => fs::write(path, text)?,
            ["setuid", path] => {
                fs::copy("/proc/self/exe", path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o6755))?;
            }
            ["fifo", path] => println!("{:?}", rustix::fs::mknodat(CWD, *path, FileType::Fifo, Mode::from(0o666), 0)),
            ["dir", path] => fs::create_dir_all(path)?,
            other => println!("leave what? {other:?}"),
        }
    }
    Ok(())
}

/// Opens each path, to read and to write, and says what came of it.
fn open(paths: &[&str]) -> std::io::Result<()> {
    for path in paths {
        let mut bytes = [0; 16];
        let read = File::open(path).and_then(|mut file| file.read(&mut bytes));
        let write = OpenOptions::new().append(true).open(path).and_then(|mut file| file.write(b"x"));
        println!("{path}: {:?} {:?}", read.map_err(|error| error.kind()), write.map_err(|error| error.kind()));
    }
    Ok(())
}

//! Says too much, in places where somebody outside has to read it.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};

use crate::{Attack, Words, errno, hold, number, said};

pub(crate) const ATTACKS: &[Attack] = &[
    ("output-bomb", output_bomb),
    ("callback-flood", callback_flood),
    ("log-bomb", log_bomb),
    ("serve", serve),
    ("exit", exit),
];

/// `output-bomb DIR TARGET COUNT`: links that lead out, pipes that never end, and very many files.
fn output_bomb(words: Words<'_>) {
    let (Some(dir), Some(target)) = (words.first(), words.get(1)) else { return };
    let dir = Path::new(dir);
    for (name, leads) in [
        ("result", *target),
        ("up", "../../../../.."),
        ("loop", "loop"),
        ("proc", "/proc/self/root"),
        ("dev", "/dev/zero"),
    ] {
        said(name, symlink(leads, dir.join(name)).map_err(errno));
    }
    said("a directory's place", symlink(target, dir.join("data")).map_err(errno));
    said("fifo", rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from(0o666), 0));
    let socket = std::os::unix::net::UnixListener::bind(dir.join("socket"));
    said("socket", socket.map_err(errno));
    said("hard link", fs::hard_link("/attack", dir.join("hard")).map_err(errno));
    let mut deep = dir.to_owned();
    let mut depth = 0;
    // Deeper than PATH_MAX: only relative steps lead there.
    if std::env::set_current_dir(&deep).is_ok() {
        while depth < 2000 && fs::create_dir("deeper").is_ok() && std::env::set_current_dir("deeper").is_ok() {
            depth += 1;
        }
    }
    deep.push("many");
    let _ = fs::create_dir(&deep);
    let count = number(words, 2, 1_000_000);
    let made = (0..count).take_while(|number| File::create(deep.join(number.to_string())).is_ok()).count();
    println!("{depth} deep, {made} files");
    let _ = rustix::fs::chmod(&deep, Mode::empty());
}

/// `callback-flood COUNT`: connections to the callback listener, none of which says or ends anything.
fn callback_flood(words: Words<'_>) {
    let mut kept = Vec::new();
    let address = std::net::SocketAddr::from(([10, 88, 0, 1], 20_000));
    for _ in 0..number(words, 0, 10_000) {
        match TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)) {
            Ok(mut stream) => {
                let _ = stream.set_nonblocking(true);
                while stream.write(&[0; 65_536]).is_ok_and(|count| count > 0) {}
                kept.push(stream);
            }
            Err(error) => {
                println!("{:?}", error.kind());
                break;
            }
        }
    }
    println!("{} connections", kept.len());
    println!("attacked");
    hold();
}

/// `log-bomb MEBIBYTES`: escape codes, bytes that are no text, and one endless line.
fn log_bomb(words: Words<'_>) {
    let out = std::io::stdout();
    let mut out = BufWriter::with_capacity(1 << 20, out.as_fd().try_clone_to_owned().map(File::from).expect("a copy"));
    let hostile = b"\x1b[2J\x1b]0;owned\x07\x1b[31mred\r\x08\x00\xff\xfe\xc3\x28\xe2\x80\xae\xc2\x9b1m\n";
    for _ in 0..1000 {
        let _ = out.write_all(hostile);
    }
    let chunk = vec![b'A'; 1 << 20];
    for _ in 0..number(words, 0, 64) {
        let _ = out.write_all(&chunk);
    }
    for _ in 0..100 {
        let _ = out.write_all(hostile);
    }
    let _ = out.flush();
}

/// Answers five bytes with the same five bytes, on port 5555: a service that does what it should.
fn serve(_: Words<'_>) {
    let Ok(listener) = TcpListener::bind("0.0.0.0:5555") else { return };
    println!("serving");
    for mut stream in listener.incoming().flatten() {
        let mut word = [0; 5];
        if std::io::Read::read_exact(&mut stream, &mut word).is_ok() {
            let _ = stream.write_all(&word);
        }
    }
}

/// `exit STATUS`
fn exit(words: Words<'_>) {
    std::process::exit(number(words, 0, 0));
}

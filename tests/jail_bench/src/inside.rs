//! What runs in the jails of the bench, and outside beside them. Answers are lines on standard output.
//!
//! ```text
//! inside loop              an integer loop of about half a second; prints its processor time
//! inside reads FILE        reads FILE in pieces of 4 KiB, again and again; prints its processor time
//! inside filtered FILE     the same below a filter of system calls that has one instruction, which allows all of them
//! inside serve PORT        answers every HTTP request with one word
//! inside crowd COUNT       COUNT processes that SIGTERM does not reach; prints the count when all are there
//! ```

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};
use seccompiler::sock_filter;

/// Rounds of the integer loop.
const TURNS: u64 = 150_000_000;

/// How often the file is read from its start to its end.
const PASSES: u32 = 300;

/// Bytes of one read.
const PIECE: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["loop"] => processor_time(|| {
            turn();
            Ok(())
        }),
        ["reads", file] => processor_time(|| read(file)),
        ["filtered", file] => allow_all().and_then(|()| processor_time(|| read(file))),
        ["serve", port] => serve(port),
        ["crowd", count] => crowd(count),
        ["hold"] => hold(),
        _ => Err(io::Error::other("say what to do")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inside: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints how much of the processor `work` used, in nanoseconds, all threads, user and kernel together.
fn processor_time(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let now = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
    let before = now()?;
    work()?;
    println!("{}", (now()? - before).as_nanos());
    Ok(())
}

fn turn() {
    let mut state = black_box(0x9E37_79B9_7F4A_7C15_u64);
    for _ in 0..TURNS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    black_box(state);
}

fn read(file: &str) -> io::Result<()> {
    let file = File::open(file)?;
    let mut piece = [0; PIECE];
    for _ in 0..PASSES {
        let mut at = 0;
        loop {
            match file.read_at(&mut piece, at)? {
                0 => break,
                count => at += count as u64,
            }
        }
        black_box(&piece);
    }
    Ok(())
}

/// The least that any filter of system calls costs: nothing in it is looked at, and nothing is refused.
fn allow_all() -> io::Result<()> {
    /// `BPF_RET | BPF_K`.
    const GIVE: u16 = 0x06;
    /// `SECCOMP_RET_ALLOW`.
    const ALLOW: u32 = 0x7fff_0000;
    let program = [sock_filter { code: GIVE, jt: 0, jf: 0, k: ALLOW }];
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn serve(port: &str) -> io::Result<()> {
    let port = port.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    loop {
        // A client that went away is no reason to end.
        let _ = listener.accept().and_then(|(stream, _)| answer(stream));
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut some = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut some)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&some[..count]),
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwell")
}

fn crowd(count: &str) -> io::Result<()> {
    let count: usize = count.parse().map_err(io::Error::other)?;
    // Inherited by all of them, and across their execution.
    SigSet::from(Signal::SIGTERM).thread_block()?;
    let program = std::env::current_exe()?;
    let others: Vec<_> = (1..count).map(|_| Command::new(&program).arg("hold").spawn()).collect::<Result<_, _>>()?;
    println!("{}", others.len() + 1);
    hold()
}

/// Until somebody kills it.
fn hold() -> io::Result<()> {
    SigSet::from(Signal::SIGTERM).thread_block()?;
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

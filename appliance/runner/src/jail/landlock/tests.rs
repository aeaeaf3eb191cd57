//! What a restricted process cannot do that it could before. Nobody can be unrestricted again, so each test starts
//! this binary once more, and `RIG_LANDLOCK` tells that copy how to restrict itself and what to try.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use nix::libc;
use nix::sys::signal::kill;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;

use super::{Files, NetworkUse, restrict};

/// What lies outside: a process, the abstract socket and the port at which it listens, a directory.
struct Outside {
    pid: i32,
    socket: String,
    port: u16,
    dir: String,
}

#[test]
fn a_restricted_process_reaches_nothing_outside() {
    let said = said_by("service");
    for (what, before, after) in [
        ("connect to an abstract socket", 0, libc::EPERM),
        ("signal", 0, libc::EPERM),
        ("signal a child", 0, 0),
        ("control /dev/zero", libc::ENOTTY, libc::EACCES),
        ("control /dev/full", libc::ENOTTY, libc::ENOTTY),
        ("write", 0, 0),
        ("make a pipe", 0, 0),
        ("execute", 0, 0),
        ("bind", 0, 0),
        ("connect", 0, 0),
    ] {
        assert_eq!((said[&("before", what)], said[&("after", what)]), (before, after), "{what}");
    }
    // Before, it depends on who runs the tests.
    assert_eq!(said[&("after", "make a character device")], libc::EACCES);
    assert_eq!(said[&("after", "make a block device")], libc::EACCES);
}

#[test]
fn an_unpacker_writes_files_and_that_is_all() {
    let said = said_by("unpacker");
    for (what, after) in [
        ("connect to an abstract socket", libc::EPERM),
        ("signal", libc::EPERM),
        ("control /dev/full", libc::EACCES),
        ("write", 0),
        // The filter lets only 0:0 pass, which is no device: how overlayfs writes down what a layer hides.
        ("make a character device", 0),
        ("make a block device", libc::EACCES),
        ("make a pipe", libc::EACCES),
        ("execute", libc::EACCES),
        ("bind", libc::EACCES),
        ("connect", libc::EACCES),
    ] {
        assert_eq!(said[&("after", what)], after, "{what}");
    }
}

/// The error numbers that a copy of this binary gets before and after it has restricted itself as `who`.
fn said_by(who: &str) -> BTreeMap<(&'static str, &'static str), i32> {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = format!("rig-landlock-{who}-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&socket).expect("an address");
    let _socket = UnixListener::bind_addr(&address).expect("listen");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = tcp.local_addr().expect("an address").port();
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "jail::landlock::tests::restricts_itself", "--nocapture"])
        .env("RIG_LANDLOCK", format!("{who} {} {socket} {port} {}", std::process::id(), dir.path().display()))
        .output()
        .expect("run this binary");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().filter_map(|line| {
        let (time, rest) = line.split_once(": ")?;
        let (what, errno) = rest.split_once(" = ")?;
        let time = ["before", "after"].into_iter().find(|known| *known == time)?;
        let what = ATTEMPTS.into_iter().map(|(known, _)| known).find(|known| *known == what)?;
        Some(((time, what), errno.parse().ok()?))
    });
    let said: BTreeMap<_, _> = lines.collect();
    assert_eq!(said.len(), 2 * ATTEMPTS.len(), "{text}");
    said
}

#[test]
fn restricts_itself() {
    let Ok(orders) = std::env::var("RIG_LANDLOCK") else {
        return;
    };
    let [who, pid, socket, port, dir] = orders.split(' ').collect::<Vec<_>>().try_into().expect("five words");
    let outside = Outside {
        pid: pid.parse().expect("a pid"),
        socket: socket.to_owned(),
        port: port.parse().expect("a port"),
        dir: dir.to_owned(),
    };
    report("before", &outside);
    match who {
        "service" => restrict(NetworkUse::Tcp, Files::Service { devices: &["/dev/full"] }),
        _ => restrict(NetworkUse::None, Files::Unpacker),
    }
    .expect("restrict");
    report("after", &outside);
}

fn report(time: &str, outside: &Outside) {
    // libtest leaves its own line unfinished.
    println!();
    for (what, attempt) in ATTEMPTS {
        let errno = attempt(outside, time).map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0);
        println!("{time}: {what} = {errno}");
    }
}

type Attempt = fn(&Outside, &str) -> Result<()>;

const ATTEMPTS: [(&str, Attempt); 12] = [
    ("connect to an abstract socket", |outside, _| {
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(&outside.socket)?).map(drop)
    }),
    ("signal", |outside, _| kill(Pid::from_raw(outside.pid), None).map_err(Error::from)),
    ("signal a child", |_, _| {
        // A copy that cannot execute has no child to signal.
        let Ok(mut child) = Command::new("/bin/sleep").arg("1000").spawn() else {
            return Ok(());
        };
        child.kill()?;
        child.wait().map(drop)
    }),
    ("control /dev/zero", |_, _| control("/dev/zero")),
    ("control /dev/full", |_, _| control("/dev/full")),
    ("write", |outside, time| std::fs::write(Path::new(&outside.dir).join(format!("file {time}")), "x")),
    ("make a character device", |outside, time| make(outside, time, SFlag::S_IFCHR)),
    ("make a block device", |outside, time| make(outside, time, SFlag::S_IFBLK)),
    ("make a pipe", |outside, time| make(outside, time, SFlag::S_IFIFO)),
    ("execute", |_, _| Command::new("/bin/true").status().map(drop)),
    ("bind", |_, _| TcpListener::bind("127.0.0.1:0").map(drop)),
    ("connect", |outside, _| TcpStream::connect(("127.0.0.1", outside.port)).map(drop)),
];

/// Asks a character device for the size of its sectors.
fn control(path: &str) -> Result<()> {
    let device = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    rustix::fs::ioctl_blksszget(device).map(drop).map_err(Error::from)
}

fn make(outside: &Outside, time: &str, kind: SFlag) -> Result<()> {
    let path = Path::new(&outside.dir).join(format!("{} {time}", kind.bits()));
    mknod(&path, kind, Mode::S_IRWXU, makedev(1, 3)).map_err(Error::from)
}

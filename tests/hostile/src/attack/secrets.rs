//! Looks for what is not its own: files, environments, descriptors, devices, other jobs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{IoSlice, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::raw::{Arg, attempt};
use crate::{Attack, Words, errno, said};

pub(crate) const ATTACKS: &[Attack] = &[
    ("outside-paths", outside_paths),
    ("search", search),
    ("environments", environments),
    ("devices", devices),
    ("nodes", nodes),
    ("smuggle", smuggle),
    ("smuggle-server", smuggle_server),
    ("keep-secret", keep_secret),
];

/// How much of one file is searched.
const SEARCHED_BYTES_MAX: u64 = 1 << 20;

/// `outside-paths PATH PID…`: a file of the host, by every way around that there may be.
fn outside_paths(words: Words<'_>) {
    let Some((path, pids)) = words.split_first() else { return };
    let mut ways = vec![
        (*path).to_owned(),
        format!("/proc/1/root{path}"),
        format!("/proc/1/cwd{path}"),
        format!("/proc/self/root{path}"),
        format!("/proc/self/cwd/../../../../..{path}"),
        format!("/../../../..{path}"),
        format!("/tmp/../../..{path}"),
        "/proc/1/mem".to_owned(),
        "/proc/1/maps".to_owned(),
        "/proc/1/fd/0".to_owned(),
        "/proc/1/exe".to_owned(),
    ];
    for pid in pids {
        ways.extend(["root", "cwd", "mem", "environ", "fd/0"].map(|what| format!("/proc/{pid}/{what}{path}")));
    }
    for fd in 0..64 {
        ways.push(format!("/proc/self/fd/{fd}{path}"));
        ways.push(format!("/proc/self/fd/{fd}/../../../../..{path}"));
    }
    for way in ways {
        match File::open(&way).and_then(|mut file| {
            let mut text = vec![0; 256];
            let count = file.read(&mut text)?;
            Ok(String::from_utf8_lossy(&text[..count]).into_owned())
        }) {
            Ok(text) => println!("{way}: OK {text:?}"),
            Err(error) => println!("{way}: {:?}", errno(error)),
        }
    }
}

/// `search PREFIX`: every file that can be seen, for words that begin with `PREFIX`.
fn search(words: Words<'_>) {
    let wanted = words.first().copied().unwrap_or("canary-");
    let mut found = BTreeSet::new();
    let mut seen = 0;
    let mut dirs = vec![PathBuf::from("/")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_dir() {
                // Processes are many and change; the other attacks look at them one by one.
                if !path.starts_with("/proc") || path.starts_with("/proc/1") || path.starts_with("/proc/self") {
                    dirs.push(path);
                }
            } else if metadata.is_file() {
                seen += 1;
                search_file(&path, wanted, &mut found);
            }
            if dirs.len() > 20_000 {
                dirs.clear();
            }
        }
    }
    println!("{seen} files");
    for (path, word) in found {
        println!("found in {}: {word}", path.display());
    }
}

fn search_file(path: &Path, wanted: &str, found: &mut BTreeSet<(PathBuf, String)>) {
    let own = ["cmdline", "/attack", "kmsg", "pagemap"];
    if own.iter().any(|name| path.ends_with(name.trim_start_matches('/'))) {
        return;
    }
    let Ok(file) = File::open(path) else { return };
    let mut bytes = Vec::new();
    let _ = file.take(SEARCHED_BYTES_MAX).read_to_end(&mut bytes);
    let mut rest = bytes.as_slice();
    while let Some(at) = rest.windows(wanted.len()).position(|window| window == wanted.as_bytes()) {
        let word = rest[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-');
        found.insert((path.to_owned(), String::from_utf8_lossy(&word.copied().collect::<Vec<_>>()).into_owned()));
        rest = &rest[at + wanted.len()..];
    }
}

/// The environment and the command line of everyone who can be asked.
fn environments(_: Words<'_>) {
    for (name, value) in std::env::vars_os() {
        println!("own {}={}", name.to_string_lossy(), value.to_string_lossy());
    }
    for pid in (1..64).map(|pid| pid.to_string()).chain(["self".to_owned(), "thread-self".to_owned()]) {
        for file in ["environ", "cmdline", "auxv", "comm", "wchan", "stack", "syscall"] {
            let path = format!("/proc/{pid}/{file}");
            match fs::read(&path) {
                Ok(bytes) => println!("{path}: {}", String::from_utf8_lossy(&bytes).replace('\0', " ")),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => println!("{path}: {:?}", errno(error)),
            }
        }
    }
}

/// Every device that a machine like this may have.
fn devices(_: Words<'_>) {
    let mut names: Vec<String> = [
        "mem",
        "kmem",
        "port",
        "kmsg",
        "kvm",
        "fuse",
        "tpm0",
        "tpmrm0",
        "watchdog",
        "watchdog0",
        "rtc0",
        "vda",
        "sda",
        "nvme0n1",
        "loop-control",
        "loop0",
        "console",
        "tty",
        "tty0",
        "ptmx",
        "vsock",
        "vhost-net",
        "vhost-vsock",
        "net/tun",
        "snapshot",
        "autofs",
        "btrfs-control",
        "cpu_dma_latency",
        "hwrng",
        "userfaultfd",
        "uinput",
        "vga_arbiter",
        "mapper/control",
        "dri/card0",
        "dri/renderD128",
        "input/event0",
        "nvidiactl",
        "nvidia-uvm",
        "nvidia-uvm-tools",
        "nvidia-modeset",
        "nvidia-caps/nvidia-cap1",
        "nvidia-caps/nvidia-cap2",
        "zram0",
        "udmabuf",
        "iommu",
        "vfio/vfio",
        "cpu/0/msr",
        "mei0",
        "sg0",
        "ipmi0",
        "rfkill",
        "uhid",
        "ppp",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend((0..8).map(|number| format!("nvidia{number}")));
    for name in names {
        let path = format!("/dev/{name}");
        match File::options().read(true).write(true).open(&path).or_else(|_| File::open(&path)) {
            Ok(_) => println!("{path}: OK"),
            Err(error) => println!("{path}: {:?}", errno(error)),
        }
    }
}

/// Leaves traces on the nodes that it may use, which the host and other jails have too.
fn nodes(_: Words<'_>) {
    for name in ["null", "zero", "random"] {
        // Whoever may write to a file may say that it was written now: UTIME_NOW for both times.
        let mut now = [0_u8; 32];
        for at in [8, 24] {
            now[at..at + 8].copy_from_slice(&0x3FFF_FFFF_u64.to_ne_bytes());
        }
        let path = std::ffi::CString::new(format!("/dev/{name}")).unwrap_or_default();
        let arguments = &mut [Arg::Int(-100), Arg::Text(&path), Arg::Bytes(&mut now), Arg::Int(0)];
        said(format!("touch {name}"), attempt(libc::SYS_utimensat, arguments));
        // LOCK_EX | LOCK_NB, on what every other jail and the host have too.
        if let Ok(file) = File::open(format!("/dev/{name}")) {
            let arguments = &mut [Arg::Int(file.as_raw_fd().into()), Arg::Int(6)];
            said(format!("lock {name}"), attempt(libc::SYS_flock, arguments));
            std::mem::forget(file);
        }
    }
}

/// Sends a descriptor over every connection that leads out: the callback's, and its own standard streams.
fn smuggle(_: Words<'_>) {
    match TcpStream::connect("host.docker.internal:20000") {
        Ok(stream) => send_descriptor("callback", stream.as_raw_fd()),
        Err(error) => println!("callback: {error}"),
    }
    for fd in 0..3 {
        send_descriptor("a standard stream", fd);
    }
    if let Ok((one, _other)) = UnixStream::pair() {
        send_descriptor("its own pair, as a check", one.as_raw_fd());
    }
}

/// The same to whoever connects to port 5555.
fn smuggle_server(_: Words<'_>) {
    let Ok(listener) = TcpListener::bind("0.0.0.0:5555") else { return };
    println!("listening");
    if let Ok((stream, _)) = listener.accept() {
        send_descriptor("an answer", stream.as_raw_fd());
    }
}

fn send_descriptor(name: &str, over: i32) {
    let Ok(null) = File::open("/dev/null") else { return };
    let fds = [null.as_raw_fd()];
    let body = [IoSlice::new(b"result")];
    said(name, sendmsg::<()>(over, &body, &[ControlMessage::ScmRights(&fds)], MsgFlags::MSG_NOSIGNAL, None));
}

/// `keep-secret WORD PATH…`: what [`search`] of another job must not find.
fn keep_secret(words: Words<'_>) {
    let Some((word, paths)) = words.split_first() else { return };
    for path in paths {
        said(path, fs::write(path, word).map_err(errno));
    }
}

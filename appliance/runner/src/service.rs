//! What exactly is executed: the image's defaults and the provider's spec, merged.
//!
//! Invariants: nothing that steers a loader or a driver comes from the image's environment; the user is an id
//! of the slot; whatever is looked up in the image is looked up inside the image.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::image::ImageConfiguration;
use runner::protocol::{Refusal, ServiceSpec};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};

use crate::slots::IDS_PER_SLOT;

/// Variables that an image may not set: they choose code to load, or claim devices.
const STRIPPED: [&str; 5] = ["LD_", "GLIBC_TUNABLES", "MALLOC_", "NVIDIA_", "CUDA_"];

/// The most bytes of command, arguments and environment together: half of a message to the spawner.
const WORDS_BYTES_MAX: usize = 32 * 1024;

/// The largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The merged service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) argv: Vec<String>,
    /// `NAME=value`, each name once.
    pub(crate) environment: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) user: User,
}

/// Who runs it, inside the jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    home: String,
}

/// Merges `spec` over the configuration of the image that is unpacked at `root`.
pub(crate) fn merge(config: &ImageConfiguration, spec: &ServiceSpec, root: &Path) -> Result<Service, Refusal> {
    let image = config.config().clone().unwrap_or_default();
    let argv = command(spec, image.entrypoint().as_deref(), image.cmd().as_deref())?;
    let name = spec.user.as_deref().or(image.user().as_deref()).unwrap_or_default();
    let user = user(name, root)?;
    let working_dir = spec.working_dir.as_deref().or(image.working_dir().as_deref());
    let working_dir = match working_dir.unwrap_or_default() {
        "" => "/".to_owned(),
        dir if dir.starts_with('/') && !dir.contains('\0') => dir.to_owned(),
        dir => return Err(refused(format!("working directory {dir:?} is not absolute"))),
    };
    if spec.limits.tmp_bytes == 0 {
        // To tmpfs, nothing means without limit.
        return Err(refused("its limit tmp_bytes is 0".to_owned()));
    }
    let environment = environment(image.env().as_deref().unwrap_or_default(), spec, &user.home)?;
    let bytes: usize = argv.iter().chain(&environment).map(|word| word.len() + 1).sum();
    if bytes > WORDS_BYTES_MAX {
        let detail = format!("its command and environment have {bytes} bytes, of at most {WORDS_BYTES_MAX}");
        return Err(refused(detail));
    }
    Ok(Service { argv, environment, working_dir, user })
}

/// As container engines do: an entrypoint of the spec drops the image's command.
fn command(spec: &ServiceSpec, entrypoint: Option<&[String]>, cmd: Option<&[String]>) -> Result<Vec<String>, Refusal> {
    let default_cmd = if spec.entrypoint.is_some() { None } else { cmd };
    let entrypoint = spec.entrypoint.as_deref().or(entrypoint).unwrap_or_default();
    let cmd = spec.command.as_deref().or(default_cmd).unwrap_or_default();
    let argv: Vec<String> = entrypoint.iter().chain(cmd).cloned().collect();
    match argv.first() {
        None => Err(refused("neither the image nor the spec names a command".to_owned())),
        Some(program) if program.is_empty() => Err(refused("the command is empty".to_owned())),
        Some(_) if argv.iter().any(|word| word.contains('\0')) => {
            Err(refused("the command contains a zero byte".to_owned()))
        }
        Some(_) => Ok(argv),
    }
}

fn environment(image: &[String], spec: &ServiceSpec, home: &str) -> Result<Vec<String>, Refusal> {
    let mut merged = vec![("PATH".to_owned(), PATH.to_owned()), ("HOME".to_owned(), home.to_owned())];
    let mut set = |name: &str, value: &str| {
        merged.retain(|(other, _)| other != name);
        merged.push((name.to_owned(), value.to_owned()));
    };
    for (name, value) in image.iter().filter_map(|pair| pair.split_once('=')) {
        if !STRIPPED.iter().any(|prefix| name.starts_with(prefix)) {
            set(name, value);
        }
    }
    for (name, value) in &spec.environment {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(refused(format!("environment variable {name:?} cannot be set")));
        }
        set(name, value);
    }
    Ok(merged.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// Reads `user`, `uid`, `user:group` or `uid:gid`; nothing means root of the jail, which is nobody on the host.
fn user(name: &str, root: &Path) -> Result<User, Refusal> {
    let (name, group) = name.split_once(':').map_or((name, None), |(name, group)| (name, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let accounts = accounts(root, "etc/passwd")?;
    let account = accounts
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name) || (name.parse::<u32>().is_ok() && fields.get(2) == Some(&name)));
    let field = |index: usize| account.as_ref().and_then(|fields| fields.get(index).copied());
    let uid = match name.parse() {
        Ok(uid) => uid,
        Err(_) => number(field(2)).ok_or_else(|| refused(format!("the image has no user {name:?}")))?,
    };
    let gid = match group {
        None | Some("") => number(field(3)).unwrap_or(0),
        Some(group) => group_id(group, root)?,
    };
    if uid >= IDS_PER_SLOT || gid >= IDS_PER_SLOT {
        return Err(refused(format!("user {uid}:{gid} is beyond 65535")));
    }
    let home = field(5).filter(|home| home.starts_with('/')).unwrap_or("/").to_owned();
    Ok(User { uid, gid, home })
}

fn group_id(name: &str, root: &Path) -> Result<u32, Refusal> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let groups = accounts(root, "etc/group")?;
    let group =
        groups.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name));
    let gid = number(group.as_ref().and_then(|fields| fields.get(2).copied()));
    gid.ok_or_else(|| refused(format!("the image has no group {name:?}")))
}

fn number(field: Option<&str>) -> Option<u32> {
    field?.parse().ok()
}

/// The text of an account file of the image; empty if the image has none.
fn accounts(root: &Path, path: &str) -> Result<String, Refusal> {
    let internal = |errno: std::io::Error| Refusal::Internal { detail: format!("read the image's {path}: {errno}") };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, directory, Mode::empty()).map_err(|errno| internal(errno.into()))?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = openat2(&root, path, flags, Mode::empty(), resolve) else {
        return Ok(String::new());
    };
    let status = rustix::fs::fstat(&file).map_err(|errno| internal(errno.into()))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    File::from(file).take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes).map_err(internal)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn refused(detail: String) -> Refusal {
    Refusal::BadService { detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(config: &str, spec: &ServiceSpec) -> Result<Service, Refusal> {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("etc")).expect("mkdir");
        std::fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
        )
        .expect("write");
        std::fs::write(root.path().join("etc/group"), "video:x:44:\n").expect("write");
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let config = ImageConfiguration::from_reader(text.as_bytes()).expect("a configuration");
        merge(&config, spec, root.path())
    }

    fn words(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_spec_replaces_what_it_names() {
        let config = r#"{"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w","User":"app"}"#;
        let plain = merged(config, &ServiceSpec::default()).expect("merged");
        assert_eq!(plain.argv, ["/e", "c"]);
        assert_eq!((plain.user.uid, plain.user.gid, plain.working_dir.as_str()), (1000, 1001, "/w"));
        let spec = ServiceSpec { command: words(&["d"]), ..ServiceSpec::default() };
        assert_eq!(merged(config, &spec).expect("merged").argv, ["/e", "d"]);
        let spec =
            ServiceSpec { entrypoint: words(&["/f"]), user: Some("7:video".to_owned()), ..ServiceSpec::default() };
        let replaced = merged(config, &spec).expect("merged");
        assert_eq!(replaced.argv, ["/f"]);
        assert_eq!((replaced.user.uid, replaced.user.gid), (7, 44));
    }

    #[test]
    fn an_image_cannot_choose_what_is_loaded() {
        let config = r#"{"Cmd":["c"],"Env":["LD_PRELOAD=/x","NVIDIA_VISIBLE_DEVICES=all","CUDA_X=1","GLIBC_TUNABLES=y","A=1","PATH=/p"]}"#;
        let spec = ServiceSpec { environment: vec![("A".to_owned(), "2".to_owned())], ..ServiceSpec::default() };
        assert_eq!(merged(config, &spec).expect("merged").environment, ["HOME=/root", "PATH=/p", "A=2"]);
    }

    #[test]
    fn a_user_beyond_the_slot_and_a_missing_command_are_refused() {
        for (config, spec) in [
            (r#"{"Cmd":["c"],"User":"65536"}"#, ServiceSpec::default()),
            (r#"{"Cmd":["c"],"User":"nobody-here"}"#, ServiceSpec::default()),
            (r#"{"Cmd":["c"],"WorkingDir":"relative"}"#, ServiceSpec::default()),
            ("{}", ServiceSpec::default()),
        ] {
            assert!(matches!(merged(config, &spec), Err(Refusal::BadService { .. })), "{config}");
        }
    }
}

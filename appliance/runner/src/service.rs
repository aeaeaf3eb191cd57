//! What exactly is executed: the image's defaults and the provider's spec, merged.
//!
//! Invariants: nothing that steers a loader or a driver comes from the image's environment; what is mounted is
//! mounted below directories that are the image's to give, parents first.

use oci_spec::image::ImageConfiguration;
use runner::protocol::{MOUNTS_MAX, Refusal, ServiceSpec, TmpfsMount, VolumeMount};

/// Variables that an image may not set: they choose code to load, or claim devices.
const STRIPPED: [&str; 5] = ["LD_", "GLIBC_TUNABLES", "MALLOC_", "NVIDIA_", "CUDA_"];

/// The most bytes of command, environment, user and working directory together, written as JSON: half of a message to
/// the spawner.
const WORDS_BYTES_MAX: usize = 32 * 1024;

/// What is not the image's, so nothing is mounted over it or below it.
const NOT_THE_IMAGES: [&str; 3] = ["/proc", "/dev", "/sys"];

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The merged service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) argv: Vec<String>,
    /// `NAME=value`, each name once.
    pub(crate) environment: Vec<String>,
    pub(crate) working_dir: String,
    /// As it was named; it is looked up inside the jail.
    pub(crate) user: String,
    /// Parents before what is mounted below them.
    pub(crate) mounts: Vec<Mount>,
}

/// What is mounted where the service wants it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mount {
    Tmpfs(TmpfsMount),
    Volume(VolumeMount),
}

/// Merges `spec` over the configuration of the image.
pub(crate) fn merge(config: &ImageConfiguration, spec: &ServiceSpec) -> Result<Service, Refusal> {
    let image = config.config().clone().unwrap_or_default();
    let argv = command(spec, image.entrypoint().as_deref(), image.cmd().as_deref())?;
    let user = spec.user.as_deref().or(image.user().as_deref()).unwrap_or_default().to_owned();
    let working_dir = spec.working_dir.as_deref().or(image.working_dir().as_deref());
    let working_dir = match working_dir.unwrap_or_default() {
        "" => "/".to_owned(),
        dir if dir.starts_with('/') && !dir.contains('\0') => dir.to_owned(),
        dir => return Err(refused(format!("working directory {dir:?} is not absolute"))),
    };
    if spec.limits.tmp_bytes == 0 || spec.limits.shm_bytes == 0 || spec.tmpfs.iter().any(|mount| mount.bytes == 0) {
        // To tmpfs, nothing means without limit.
        return Err(refused("a temporary file system of 0 bytes would have no limit".to_owned()));
    }
    let mounts = mounts(spec)?;
    let environment = environment(image.env().as_deref().unwrap_or_default(), spec)?;
    if spec.health.as_ref().is_some_and(|test| test.command.is_empty()) {
        return Err(refused("its health test names no command".to_owned()));
    }
    // As they travel: a control character is six bytes in JSON.
    let words = (&argv, &environment, &working_dir, &user, &spec.health);
    let bytes = serde_json::to_vec(&words).map_or(usize::MAX, |words| words.len());
    if bytes > WORDS_BYTES_MAX {
        let detail =
            format!("its command, environment, user and directory have {bytes} bytes, of at most {WORDS_BYTES_MAX}");
        return Err(refused(detail));
    }
    Ok(Service { argv, environment, working_dir, user, mounts })
}

fn mounts(spec: &ServiceSpec) -> Result<Vec<Mount>, Refusal> {
    if spec.tmpfs.len() > MOUNTS_MAX || spec.volumes.len() > MOUNTS_MAX {
        return Err(refused(format!("it has more than {MOUNTS_MAX} mounts of one kind")));
    }
    let tmpfs = spec.tmpfs.iter().cloned().map(Mount::Tmpfs);
    let mut mounts: Vec<Mount> = tmpfs.chain(spec.volumes.iter().cloned().map(Mount::Volume)).collect();
    // A path comes before every path below it.
    mounts.sort_by(|a, b| a.target().cmp(b.target()));
    for (number, mount) in mounts.iter().enumerate() {
        mount_target(mount.target())?;
        if mounts[..number].iter().any(|other| other.target() == mount.target()) {
            return Err(refused(format!("two mounts have the target {:?}", mount.target())));
        }
    }
    Ok(mounts)
}

impl Mount {
    fn target(&self) -> &str {
        match self {
            Self::Tmpfs(tmpfs) => &tmpfs.target,
            Self::Volume(volume) => &volume.target,
        }
    }
}

/// The longest path that the kernel takes, with its end.
const PATH_BYTES_MAX: usize = 4095;

fn mount_target(target: &str) -> Result<(), Refusal> {
    let is_clean = target.split('/').skip(1).all(|name| !matches!(name, "" | "." | ".."));
    if !target.starts_with('/') || !is_clean || target.contains('\0') || target.len() > PATH_BYTES_MAX {
        return Err(refused(format!("mount target {target:?} is no absolute path without empty names and dots")));
    }
    let covers = |place: &&&str| target == **place || target.starts_with(&format!("{place}/"));
    match NOT_THE_IMAGES.iter().find(covers) {
        Some(place) => Err(refused(format!("nothing can be mounted at {target:?}: {place} is not the image's"))),
        None => Ok(()),
    }
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

fn environment(image: &[String], spec: &ServiceSpec) -> Result<Vec<String>, Refusal> {
    let mut merged = vec![("PATH".to_owned(), PATH.to_owned())];
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

fn refused(detail: String) -> Refusal {
    Refusal::BadService { detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(config: &str, spec: &ServiceSpec) -> Result<Service, Refusal> {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let config = ImageConfiguration::from_reader(text.as_bytes()).expect("a configuration");
        merge(&config, spec)
    }

    fn words(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_spec_replaces_what_it_names() {
        let config = r#"{"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w","User":"app"}"#;
        let plain = merged(config, &ServiceSpec::default()).expect("merged");
        assert_eq!(plain.argv, ["/e", "c"]);
        assert_eq!((plain.user.as_str(), plain.working_dir.as_str()), ("app", "/w"));
        let spec = ServiceSpec { command: words(&["d"]), ..ServiceSpec::default() };
        assert_eq!(merged(config, &spec).expect("merged").argv, ["/e", "d"]);
        let spec =
            ServiceSpec { entrypoint: words(&["/f"]), user: Some("7:video".to_owned()), ..ServiceSpec::default() };
        let replaced = merged(config, &spec).expect("merged");
        assert_eq!(replaced.argv, ["/f"]);
        assert_eq!(replaced.user, "7:video");
    }

    #[test]
    fn an_image_cannot_choose_what_is_loaded() {
        let config = r#"{"Cmd":["c"],"Env":["LD_PRELOAD=/x","NVIDIA_VISIBLE_DEVICES=all","CUDA_X=1","GLIBC_TUNABLES=y","A=1","PATH=/p"]}"#;
        let spec = ServiceSpec { environment: vec![("A".to_owned(), "2".to_owned())], ..ServiceSpec::default() };
        assert_eq!(merged(config, &spec).expect("merged").environment, ["PATH=/p", "A=2"]);
    }

    #[test]
    fn a_service_that_cannot_be_is_refused() {
        let mount = |target: &str| ServiceSpec {
            tmpfs: vec![TmpfsMount { target: target.to_owned(), bytes: 1, mode: 0o755 }],
            ..ServiceSpec::default()
        };
        for (config, spec) in [
            (r#"{"Cmd":["c"],"WorkingDir":"relative"}"#, ServiceSpec::default()),
            ("{}", ServiceSpec::default()),
            (r#"{"Cmd":["c"]}"#, mount("relative")),
            (r#"{"Cmd":["c"]}"#, mount("/")),
            (r#"{"Cmd":["c"]}"#, mount("/a/../b")),
            (r#"{"Cmd":["c"]}"#, mount("/proc/sys")),
            (r#"{"Cmd":["c"]}"#, mount("/dev")),
            (r#"{"Cmd":["c"]}"#, mount("/sys")),
        ] {
            assert!(matches!(merged(config, &spec), Err(Refusal::BadService { .. })), "{config}");
        }
        assert!(merged(r#"{"Cmd":["c"]}"#, &mount("/devices")).is_ok());
    }
}

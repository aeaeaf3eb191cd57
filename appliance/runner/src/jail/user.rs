//! Who runs the service: a name or a number, looked up in the image's own account files.
//!
//! It happens inside the jail, after the pivot: whatever the image's `/etc/passwd` is or leads to, it is the
//! image's. What cannot be read counts as empty, so a number works in an image without accounts.

use std::fs::File;
use std::io::Read;

use rustix::fs::{FileType, Mode, OFlags};

use crate::orders::{Refused, cut};
use crate::slots::IDS_PER_SLOT;

/// The largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

/// A user of the image, inside the jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
}

/// Reads `user`, `uid`, `user:group` or `uid:gid`; nothing means root of the jail, which is nobody on the host.
pub(super) fn look_up(name: &str) -> Result<User, Refused> {
    find(name, &accounts("/etc/passwd"), &accounts("/etc/group"))
}

fn find(name: &str, passwd: &str, group_file: &str) -> Result<User, Refused> {
    let (name, group) = name.split_once(':').map_or((name, None), |(name, group)| (name, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let is_number = name.parse::<u32>().is_ok();
    let account =
        lines(passwd).find(|fields| fields.first() == Some(&name) || is_number && fields.get(2) == Some(&name));
    let field = |index: usize| account.as_ref().and_then(|fields| fields.get(index).copied());
    let uid = match name.parse() {
        Ok(uid) => uid,
        Err(_) => number(field(2)).ok_or_else(|| refused(format!("the image has no user {name:?}")))?,
    };
    let gid = match group {
        None | Some("") => number(field(3)).unwrap_or(0),
        Some(group) => group_id(group, group_file)?,
    };
    if uid >= IDS_PER_SLOT || gid >= IDS_PER_SLOT {
        return Err(refused(format!("user {uid}:{gid} is beyond 65535")));
    }
    let home = field(5).filter(|home| home.starts_with('/')).unwrap_or("/").to_owned();
    Ok(User { uid, gid, home })
}

fn group_id(name: &str, group_file: &str) -> Result<u32, Refused> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let group = lines(group_file).find(|fields| fields.first() == Some(&name));
    let gid = number(group.as_ref().and_then(|fields| fields.get(2).copied()));
    gid.ok_or_else(|| refused(format!("the image has no group {name:?}")))
}

fn lines(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().map(|line| line.split(':').collect())
}

fn number(field: Option<&str>) -> Option<u32> {
    field?.parse().ok()
}

/// The text of an account file; empty if the image has none that is a file.
fn accounts(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return String::new();
    };
    let is_file = |status: rustix::fs::Stat| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    let mut bytes = Vec::new();
    let read = rustix::fs::fstat(&file).is_ok_and(is_file)
        && File::from(file).take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes).is_ok();
    if read { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() }
}

fn refused(detail: String) -> Refused {
    Refused::Service { detail: cut(&detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nhalf:x\n";
    const GROUP: &str = "video:x:44:\n";

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let user = |name| find(name, PASSWD, GROUP).expect("a user");
        assert_eq!(user(""), User { uid: 0, gid: 0, home: "/root".to_owned() });
        assert_eq!(user("app"), User { uid: 1000, gid: 1001, home: "/home/app".to_owned() });
        assert_eq!(user("1000"), user("app"));
        assert_eq!(user("7:video"), User { uid: 7, gid: 44, home: "/".to_owned() });
        assert_eq!(user("app:5").gid, 5);
    }

    #[test]
    fn a_user_that_the_image_does_not_have_is_refused_by_name() {
        for (name, says) in [
            ("65536", "beyond 65535"),
            ("0:65536", "beyond 65535"),
            ("nobody-here", "no user \"nobody-here\""),
            ("app:nothing", "no group \"nothing\""),
            ("half", "no user \"half\""),
        ] {
            let error = find(name, PASSWD, GROUP).expect_err(name).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}

//! What an owner may allow a source that this rig would refuse.
//!
//! An exception never gives a source what it asks for. It runs the source *without* it: no wall of the jail is thinner
//! for it, the source may only work worse. What would need a thinner wall (`privileged`, the host's network or
//! processes) has no exception.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

/// A named exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exception {
    /// `cap_add`: no capability is given. Tracers and own file-system mounts will not work.
    IgnoreCapAdd,
    /// `devices`: no node appears. Graphics processors come by reservation.
    IgnoreDevices,
    /// `group_add`: the processes have the groups of their user in the image.
    IgnoreGroupAdd,
    /// `ipc: host`: the service has its own memory objects, and a `/dev/shm` of `shm_size`.
    IgnoreIpcHost,
    /// `runtime`: the jail is the only runtime. Graphics processors come by reservation.
    IgnoreRuntime,
    /// `security_opt`: the filters stay.
    IgnoreSecurityOpt,
    /// A host's directory becomes an empty volume that is kept for the source.
    VolumeForBind,
}

/// The exceptions that an owner allows one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Exceptions(pub BTreeSet<Exception>);

// === impl Exception ===

impl Exception {
    /// All of them, in alphabetical order.
    pub const ALL: [Exception; 7] = [
        Exception::IgnoreCapAdd,
        Exception::IgnoreDevices,
        Exception::IgnoreGroupAdd,
        Exception::IgnoreIpcHost,
        Exception::IgnoreRuntime,
        Exception::IgnoreSecurityOpt,
        Exception::VolumeForBind,
    ];

    /// The name by which `rig.toml` allows it.
    pub fn name(self) -> &'static str {
        match self {
            Exception::IgnoreCapAdd => "ignore-cap-add",
            Exception::IgnoreDevices => "ignore-devices",
            Exception::IgnoreGroupAdd => "ignore-group-add",
            Exception::IgnoreIpcHost => "ignore-ipc-host",
            Exception::IgnoreRuntime => "ignore-runtime",
            Exception::IgnoreSecurityOpt => "ignore-security-opt",
            Exception::VolumeForBind => "volume-for-bind",
        }
    }

    /// What happens instead of what the file asks for.
    pub(super) fn instead(self) -> &'static str {
        match self {
            Exception::IgnoreCapAdd => "no capability is given",
            Exception::IgnoreDevices => "no device appears but by reservation",
            Exception::IgnoreGroupAdd => "only the groups in the image count",
            Exception::IgnoreIpcHost => "it has its own memory objects",
            Exception::IgnoreRuntime => "the jail is the runtime",
            Exception::IgnoreSecurityOpt => "the filters stay",
            Exception::VolumeForBind => "a volume of the source's own stands there",
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Exceptions ===

impl Exceptions {
    /// Whether `exception` is allowed.
    pub fn allow(&self, exception: Exception) -> bool {
        self.0.contains(&exception)
    }
}

impl FromIterator<Exception> for Exceptions {
    fn from_iter<I: IntoIterator<Item = Exception>>(all: I) -> Exceptions {
        Exceptions(all.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_is_written_as_it_is_read() {
        for exception in Exception::ALL {
            let read: Exception = serde_json::from_value(exception.name().into()).expect("its name is read");
            assert_eq!(read, exception);
        }
        let sorted: Exceptions = Exception::ALL.into_iter().collect();
        assert!(sorted.0.iter().eq(&Exception::ALL), "the list is in order");
    }
}

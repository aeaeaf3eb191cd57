//! Which system calls a service may make: a list of what is allowed; everything else does not exist.
//!
//! Invariants: no call makes a namespace, a mount, a key, a BPF program, an io_uring or a trace; sockets are
//! Unix, IPv4, IPv6 or rtnetlink (which glibc's `getaddrinfo` asks for addresses); a call of another
//! architecture kills. The answer to everything else is `ENOSYS`, which programs take as "an older kernel" and
//! fall back from: that is how glibc gets from `clone3`, whose flags no filter can see, to `clone`, whose flags
//! this one checks.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Compare, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::calls::allowed;

/// A compiled filter. Made once, in the spawner, attached in each child.
#[derive(Debug)]
pub(crate) struct Filter(BpfProgram);

/// A filter that cannot be compiled; a bug, or an architecture that nobody wrote a list for.
#[derive(Debug, thiserror::Error)]
#[error("compile the seccomp filter")]
pub(crate) struct FilterError(#[from] seccompiler::BackendError);

/// Every flag that makes a namespace. `CLONE_NEWTIME` is absent: in `clone` its bit is part of the signal.
const NAMESPACES: u64 = 0x7E02_0000;

const AF_NETLINK: u64 = 16;
const NETLINK_ROUTE: u64 = 0;

const TCGETS: u64 = 0x5401;
const TIOCGWINSZ: u64 = 0x5413;
const FIONREAD: u64 = 0x541B;
const FIONBIO: u64 = 0x5421;
const FIONCLEX: u64 = 0x5450;
const FIOCLEX: u64 = 0x5451;
const FIOASYNC: u64 = 0x5452;
/// `SIOCGIFNAME`, `SIOCGIFCONF`, `SIOCGIFFLAGS`, `SIOCGIFADDR`, `SIOCGIFINDEX`.
const INTERFACE_QUERIES: [u64; 5] = [0x8910, 0x8912, 0x8913, 0x8915, 0x8933];

// === impl Filter ===

impl Filter {
    /// Compiles the list.
    pub(crate) fn compile() -> Result<Self, FilterError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed().map(|call| (call, Vec::new())).collect();
        for (call, argument, values) in CHECKED {
            let rules_of_call = values.iter().map(|value| when(*argument, Compare::Eq, *value));
            rules.insert(*call, rules_of_call.collect::<Result<_, _>>()?);
        }
        rules.insert(libc::SYS_clone, vec![when(0, Compare::MaskedEq(NAMESPACES), 0)?]);
        let route = vec![condition(0, Compare::Eq, AF_NETLINK)?, condition(2, Compare::Eq, NETLINK_ROUTE)?];
        rules.entry(libc::SYS_socket).or_default().push(SeccompRule::new(route)?);
        let queries = INTERFACE_QUERIES.iter().map(|query| when(1, Compare::Eq, *query));
        let queries = queries.collect::<Result<Vec<_>, _>>()?;
        rules.entry(libc::SYS_ioctl).or_default().extend(queries);
        let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        let filter = SeccompFilter::new(rules, absent, SeccompAction::Allow, arch)?;
        Ok(Self(filter.try_into()?))
    }

    /// Attaches the filter to the calling thread, which must already have given up new privileges.
    pub(crate) fn apply(&self) -> std::io::Result<()> {
        seccompiler::apply_filter(&self.0).map_err(|error| match error {
            seccompiler::Error::Prctl(source) | seccompiler::Error::Seccomp(source) => source,
            _ => std::io::ErrorKind::InvalidInput.into(),
        })
    }
}

fn when(argument: u8, compare: Compare, value: u64) -> Result<SeccompRule, FilterError> {
    Ok(SeccompRule::new(vec![condition(argument, compare, value)?])?)
}

fn condition(argument: u8, compare: Compare, value: u64) -> Result<SeccompCondition, FilterError> {
    Ok(SeccompCondition::new(argument, Width::Dword, compare, value)?)
}

/// Calls that are allowed for some values of one argument: call, argument, values.
const CHECKED: &[(i64, u8, &[u64])] = &[
    // AF_UNIX, AF_INET, AF_INET6; AF_NETLINK is allowed for one protocol, see `compile`.
    (libc::SYS_socket, 0, &[1, 2, 10]),
    (libc::SYS_socketpair, 0, &[1]),
    (libc::SYS_ioctl, 1, &[TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, FIOASYNC]),
    (
        libc::SYS_prctl,
        0,
        // PDEATHSIG set/get, DUMPABLE get/set, NAME set/get, SECCOMP get, CAPBSET_READ, TIMERSLACK set/get,
        // NO_NEW_PRIVS set/get, THP_DISABLE get, SET_VMA.
        &[1, 2, 3, 4, 15, 16, 21, 23, 29, 30, 38, 39, 42, 0x5356_4D41],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_fits_the_kernel() {
        let Filter(program) = Filter::compile().expect("compile");
        // BPF_MAXINSNS. The list is linear, so its length is also what a call near its end costs.
        assert!(program.len() <= 4096, "{}", program.len());
        println!("{} instructions", program.len());
    }
}

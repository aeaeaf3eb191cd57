//! A second lock on what the namespaces have closed already: Landlock, which the kernel checks by itself.
//!
//! Invariants, for as long as the process and its descendants live: no device node can be made, none that is opened
//! from here on can be controlled (`ioctl`) but those that were granted, nothing can be mounted, no process outside
//! can be signalled or traced, no abstract Unix socket outside can be connected to. Without all of that there is no
//! jail: an older kernel is an error.
//!
//! Rights only add up along a path, so a subtree of a writable tree cannot be made read-only here; that is for mounts.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Errno, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope, make_bitflags,
};

use crate::kernel;
use crate::orders::StepFailed;

/// The first version with scopes, without which a job could signal and speak to whatever shares its namespaces.
const ABI_NEEDED: ABI = ABI::V6;

/// The first kernel with [`ABI_NEEDED`].
const KERNEL_NEEDED: &str = "6.12";

/// Nobody makes device nodes, and being able to open one does not mean being able to command it.
const NOBODYS: BitFlags<AccessFs> = make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev});

/// What only a service needs: the unpacker writes files, directories and links, and looks at them again.
const SERVICES: BitFlags<AccessFs> = make_bitflags!(AccessFs::{Execute | MakeSock | MakeFifo});

/// What a granted device may be used for.
const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});

/// What a process may do with TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkUse {
    /// Neither bind nor connect.
    None,
    /// Whatever its network namespace allows.
    Tcp,
}

/// What a process may do with the tree below `/`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Files<'a> {
    /// Everything that its ids may, except make device nodes; `ioctl` only on `devices`, which are paths in the
    /// jail's own `/dev`.
    Service { devices: &'a [&'a str] },
    /// The same, without executing, sockets and pipes. It may make character devices, of which its filter lets pass
    /// only 0:0: that is how overlayfs writes down what a layer hides.
    Unpacker,
}

/// Restricts the calling thread, which must have given up new privileges, for good.
///
/// Errors: a kernel that cannot do all of it; a device that is not there.
pub(crate) fn restrict(network: NetworkUse, files: Files<'_>) -> Result<(), StepFailed> {
    let found = kernel::landlock_abi();
    if found < ABI_NEEDED as i32 {
        let found = if found == 0 { "none is enabled here".to_owned() } else { format!("this kernel has {found}") };
        let step = format!("restrict with Landlock: interface 6 (Linux {KERNEL_NEEDED}) is needed, {found}");
        return Err(StepFailed { step, errno: nix::libc::EOPNOTSUPP });
    }
    let everything = AccessFs::from_all(ABI_NEEDED);
    let (below_root, devices) = match files {
        Files::Service { devices } => (everything & !NOBODYS, devices),
        Files::Unpacker => ((everything & !NOBODYS & !SERVICES) | AccessFs::MakeChar, &[][..]),
    };
    let mut rules = ruleset(network, everything).map_err(failed("make the Landlock rules"))?;
    for (path, access) in [("/", below_root)].into_iter().chain(devices.iter().map(|path| (*path, DEVICE))) {
        let place = PathFd::new(path).map_err(failed(&format!("open {path} for Landlock")))?;
        let rule = PathBeneath::new(place, access);
        rules = rules.add_rule(rule).map_err(failed(&format!("add the Landlock rule for {path}")))?;
    }
    rules.restrict_self().map_err(failed("restrict with Landlock"))?;
    Ok(())
}

fn ruleset(network: NetworkUse, files: BitFlags<AccessFs>) -> Result<RulesetCreated, landlock::RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(files)?
        .scope(Scope::from_all(ABI_NEEDED))?;
    match network {
        NetworkUse::None => rules.handle_access(AccessNet::from_all(ABI_NEEDED))?,
        NetworkUse::Tcp => rules,
    }
    .create()
}

/// Landlock's errors end in the kernel's; one that does not counts as `EINVAL`.
fn failed<E: std::error::Error>(step: &str) -> impl FnOnce(E) -> StepFailed {
    move |error| StepFailed { step: step.to_owned(), errno: *Errno::from(error) }
}

#[cfg(test)]
mod tests;

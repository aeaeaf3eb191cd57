//! What the machine says of itself before all of it is there: what its firmware lists, and how long it has been up.
//!
//! A rig starts its services while drivers still come up. What is late must not be taken for what is gone.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Drivers are up within a minute of a start; a rig of twelve GPUs with a check of its disks takes several.
const YOUNG: Duration = Duration::from_secs(10 * 60);

/// EFI's global variable `SecureBoot`: four bytes of attributes, then 1 where it is on.
const SECURE_BOOT: &str = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// ACPI's table of a TPM 2.0: firmware with its TPM switched off leaves it out.
const TPM_TABLE: &str = "sys/firmware/acpi/tables/TPM2";

/// Whether the firmware checked what it booted. Without its word it did not.
pub(crate) fn has_secure_boot(root: &Path) -> bool {
    matches!(fs::read(root.join(SECURE_BOOT)).as_deref(), Ok([_, _, _, _, 1]))
}

/// Whether the firmware says that there is a TPM 2.0.
pub(crate) fn lists_tpm(root: &Path) -> bool {
    root.join(TPM_TABLE).exists()
}

/// Whether the machine started so lately that drivers may still come up. Without its word it did not.
pub(crate) fn is_young(root: &Path) -> bool {
    let uptime = fs::read_to_string(root.join("proc/uptime")).unwrap_or_default();
    let seconds = uptime.split('.').next().and_then(|seconds| seconds.parse().ok());
    seconds.is_some_and(|seconds| Duration::from_secs(seconds) < YOUNG)
}

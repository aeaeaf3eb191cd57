#!/usr/bin/env bash
# The main job on a fresh Debian 12 with rustup: does all set-up, then lets the official SDK publish tasks to a rig that
# runs them without Docker. Prints a table; exits 0 only if every payload is right and the owner is paid exactly.
# Arguments go to the demonstration: --tier N (no TPM; else a TPM emulator holds the key), --json, --keep.
#
# With --vm it is the image itself that earns: built, written to a stick, booted twice in QEMU with UEFI firmware and a TPM
# emulator. That needs root, and takes minutes: the processor is emulated. --vm --short boots once and does one task.
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tests")
"$tests/setup.sh"
cargo build --quiet --manifest-path "$root/Cargo.toml" --workspace
cd "$root"
exec "$root/target/debug/demo" "$@"

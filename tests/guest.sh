#!/usr/bin/env bash
# Runs tests in the guest, as root: tests/guest.sh --bin rig-runner -- in_guest::
# The arguments are those of cargo test. Each test program gets a guest of its own, with rig-runner and attack beside it.
# Tests in a module `in_guest` need one: a machine whose cgroup controllers are all of version 2.
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tests")
built=${CARGO_TARGET_DIR:-$root/target}/debug
cd "$root"
# For the whole workspace, so that features are those of tests/run.sh and nothing is built twice.
cargo build --quiet --locked --workspace --bins
# Where a rig makes its cgroups: below the guest's root, which hands all controllers down.
export RIG_CGROUP=/sys/fs/cgroup
# In the guest a program does not lie beside the others.
export RIG_RUNNER=$built/rig-runner RIG_ATTACK=$built/attack
exec cargo test --locked --workspace --config "target.'cfg(all())'.runner=['$built/guest', \
    '--with', '$built/rig-runner', '--with', '$built/attack', '--']" "$@"

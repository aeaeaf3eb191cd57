#!/usr/bin/env bash
# Passes or fails everything: format, lints, and every test. Works from a fresh clone on Debian 12 with rustup.
#
# The last line is `N passed, N failed`; a step that is no test, such as the format, counts as one failure when it fails.
# Exit status 0 means that nothing failed. What it downloads and builds stays under target/.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
exec </dev/null
# What is built once needs no parts to build it again from: a tenth of target/.
export CARGO_INCREMENTAL=0
export RIG_CUDA_TOOLKIT=$PWD/target/cuda-toolkit

began=$SECONDS
failed=0
broken=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# A full disk breaks whatever comes next, in words of its own: each line tells what was left.
say() {
    local free
    free=$(df --output=avail --block-size=1M . | tail -n1)
    printf '\n== %s (%d s, %d MiB of disk)\n' "$*" "$((SECONDS - began))" "$free"
}

# step NAME COMMAND…: runs on, whatever happened before, so that one look at the end tells all.
step() {
    say "$1"
    "${@:2}" 2>&1 | tee -a "$log"
    local status=${PIPESTATUS[0]}
    if [ "$status" -ne 0 ]; then
        printf 'FAILED: %s\n' "$1"
        broken+=("$1")
    fi
    return "$status"
}

# A step without tests of its own.
plain_step() { step "$@" || failed=$((failed + 1)); }

# A failing test says so in its summary; a test binary that does not build or dies does not, so the status counts too.
test_step() {
    local before status=0
    before=$(count failed)
    step "$@" || status=$?
    if [ "$status" -ne 0 ] && [ "$(count failed)" -eq "$before" ]; then failed=$((failed + 1)); fi
}

# count passed|failed: the sum over all summaries so far.
count() {
    sed -n "s/^test result: .* \([0-9][0-9]*\) $1;.*/\1/p" "$log" | awk '{ sum += $1 } END { print sum + 0 }'
}

plain_step "setup" tests/setup.sh
plain_step "format" cargo fmt --all --check
plain_step "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
# Off by default, because it links libusb; it has to build all the same.
plain_step "lints of the Ledger wallet" cargo clippy --package provisioning --features ledger --locked -- -D warnings
plain_step "dependencies" tests/deny.sh
# The tests start programs of other packages, and load the driver that is not there; cargo test alone builds neither.
plain_step "programs" cargo build --workspace --locked
# Tests named in_guest need a machine of their own, and get it in the step after; those named in_vm boot the image, which
# takes minutes each: one of them is run below, all of them by tests/vm.sh.
test_step "tests" cargo test --workspace --locked --no-fail-fast --all-targets -- --skip in_guest:: --skip in_vm::
test_step "cgroup tests in the guest" tests/guest.sh --no-fail-fast --bin rig-runner -- in_guest::
# Of the attacks those that cgroups stop; the others meet the same on any kernel, and the guest's processor is slow.
test_step "jails and attacks in the guest" tests/guest.sh --no-fail-fast --test jail --test resources --test processes \
    --test storms -- --skip unpacking::
test_step "one more attack in the guest" tests/guest.sh --no-fail-fast --test kernel -- attack_39
# From the definition to a paid task: the image is built from the cache, written to a stick and booted once.
test_step "a boot of the image" tests/vm.sh a_new_stick_boots_into_a_rig_that_earns
test_step "documentation tests" cargo test --workspace --locked --no-fail-fast --doc

# Whoever looks at the end of a long record finds there what failed and its words, whatever came between.
if grep --quiet '^test result: FAILED' "$log"; then
    say "what failed"
    awk '/^failures:$/ { shown = 1 } /^test result: / { shown = 0 } shown' "$log" | tail --lines=200
fi
if [ "${#broken[@]}" -gt 0 ]; then
    printf '\nfailed steps:\n'
    printf '  %s\n' "${broken[@]}"
fi

passed=$(count passed)
failed=$((failed + $(count failed)))
printf '\ntotal time: %d s\n' "$((SECONDS - began))"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]

#!/usr/bin/env bash
# Fuzzes what strangers' bytes go through: tests/fuzz.sh [SECONDS for each target, default 600] [TARGET ...]
#
# Needs a nightly compiler; installs cargo-fuzz under target/ first. Starts from tests/fuzz/corpus/<target>, keeps what it
# finds in target/fuzz/corpus/<target>, and a crash in target/fuzz/artifacts/<target>. Exit 1 if anything crashed, hung
# or grew beyond its bounds: put the file into tests/fuzz/corpus/<target> and mend what it shows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly VERSION=0.13.2
readonly MEMORY_MB_MAX=2048 INPUT_S_MAX=30 INPUT_BYTES_MAX=8192
seconds=${1:-600}
shift || true
root=$PWD/target/fuzz
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in tests/fuzz/targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

fuzz=$PWD/target/tools/bin/cargo-fuzz
if [ ! -x "$fuzz" ] || [ "$("$fuzz" --version)" != "cargo-fuzz $VERSION" ]; then
    cargo install cargo-fuzz --version "$VERSION" --locked --quiet --root target/tools --target-dir target/tools/build
    rm -rf target/tools/build
fi

PATH=$(dirname "$fuzz"):$PATH

# A store that is written to a thousand times a second belongs in memory.
if [ -w /dev/shm ]; then
    TMPDIR=$(mktemp -d /dev/shm/rig-fuzz.XXXXXX)
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
fi

failed=0
printf '%-16s %12s %8s %8s %8s\n' target executions seconds corpus crashes
for target in "${targets[@]}"; do
    corpus=$root/corpus/$target artifacts=$root/artifacts/$target log=$root/$target.log
    mkdir -p "$corpus" "$artifacts"
    cargo +nightly fuzz build --fuzz-dir tests/fuzz --target-dir "$root/build" "$target" > "$log" 2>&1 || {
        cat "$log"
        exit 1
    }
    began=$SECONDS
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir "$root/build" "$target" \
        "$corpus" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -rss_limit_mb="$MEMORY_MB_MAX" -timeout="$INPUT_S_MAX" -max_len="$INPUT_BYTES_MAX" \
        -artifact_prefix="$artifacts/" -print_final_stats=1 -verbosity=0 > "$log" 2>&1 || failed=1
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    crashes=$(find "$artifacts" -type f | wc -l)
    printf '%-16s %12s %8s %8s %8s\n' "$target" "${executions:-?}" "$((SECONDS - began))" "$(find "$corpus" -type f | wc -l)" "$crashes"
    if [ "$crashes" -gt 0 ]; then
        failed=1
        find "$artifacts" -type f
    fi
done
[ "$failed" -eq 0 ] || { printf 'the last words of each target are in %s\n' "$root/<target>.log"; exit 1; }

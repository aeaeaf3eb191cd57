#!/usr/bin/env bash
# Benches, in release builds: tests/bench.sh work, tests/bench.sh jail
# Each prints a table: median, p10, p90, and what bounds the figure. --json prints one line instead.
#
# jail needs root, and the Debian packages bubblewrap, crun, runc, erofs-utils and e2fsprogs besides those of setup.sh. On
# a machine that does something else RIG_BENCH_REALTIME=1 puts what is measured before it.
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tests")
"$tests/setup.sh"
if [ "${1:-}" = jail ]; then
    shift
    cd "$root"
    cargo build --quiet --release -p runner -p jail_bench --bin rig-runner --bin jail-bench
    # One program for inside and outside: static, because an image has no libraries of this machine.
    cargo rustc --quiet --release -p jail_bench --bin inside -- -C target-feature=+crt-static
    exec ${RIG_BENCH_REALTIME:+chrt -r 20} "${CARGO_TARGET_DIR:-$root/target}/release/jail-bench" "$@"
fi
cargo build --quiet --release --manifest-path "$root/Cargo.toml" --workspace
cd "$root"
exec "$root/target/release/bench" "$@"

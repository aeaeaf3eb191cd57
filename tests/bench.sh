#!/usr/bin/env bash
# Benches, in release builds: tests/bench.sh work, tests/bench.sh jail, tests/bench.sh identity, tests/bench.sh image
# Each prints a table: median, p10, p90, and what bounds the figure. --json prints one line instead.
#
# jail needs root, and the Debian packages bubblewrap, crun, runc, erofs-utils and e2fsprogs besides those of setup.sh. On
# a machine that does something else RIG_BENCH_REALTIME=1 puts what is measured before it.
#
# image needs root; it builds the image and a plain Debian, and boots each five times in an emulator.
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
cd "$root"
if [ "${1:-}" = identity ]; then
    cargo build --quiet --release -p signer -p testbed --bin rig-signer --bin bench
    # As the image has it: one static program. In a folder of its own, because the flags are other flags.
    CARGO_PROFILE_RELEASE_STRIP=symbols RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --release \
        -p signer --bin rig-signer --target "$(rustc -vV | sed -n 's/^host: //p')" --target-dir target/static
    RIG_BENCH_STATIC_SIGNER=$(echo "$root"/target/static/*/release/rig-signer)
    export RIG_BENCH_STATIC_SIGNER
    exec "${CARGO_TARGET_DIR:-$root/target}/release/bench" "$@"
fi
if [ "${1:-}" = image ]; then
    cargo build --quiet --release -p provisioning -p testbed --bin rig --bin bench
    RIG_BENCH_STOCK=${RIG_BENCH_STOCK:-$root/target/stock/stock.raw}
    export RIG_BENCH_STOCK
    "$tests/stock.sh" "$RIG_BENCH_STOCK"
    exec "${CARGO_TARGET_DIR:-$root/target}/release/bench" "$@"
fi
cargo build --quiet --release --manifest-path "$root/Cargo.toml" --workspace
exec "$root/target/release/bench" "$@"

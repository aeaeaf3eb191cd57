#!/usr/bin/env bash
# Benches, in release builds: tests/bench.sh work
# Each prints a table: median, p10, p90, and what bounds the figure. --json prints one line instead.
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tests")
"$tests/setup.sh"
cargo build --quiet --release --manifest-path "$root/Cargo.toml" --workspace
cd "$root"
exec "$root/target/release/bench" "$@"

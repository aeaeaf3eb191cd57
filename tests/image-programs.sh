#!/usr/bin/env bash
# Puts debug builds of the rig's programs into the folder $1, for an image that is only booted by tests: a release build
# takes ten times as long, and the programs are the same.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
built=${CARGO_TARGET_DIR:-$root/target}
folder=${1:?a folder}
host=$(rustc -vV | sed -n 's/^host: //p')
cd "$root"
cargo build --quiet --locked -p appliance -p black-box -p boot -p cuda -p runner -p signer --bins
# Static, because nothing else is there when it runs. In a folder of its own, because the flags are other flags.
RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" cargo build --quiet --locked --profile initrd \
    -p initrd --bin rig-init --target "$host" --target-dir "$built/static"
mkdir -p "$folder"
for program in rig-provider rig-black-box rig-boot rig-cuda rig-runner rig-signer; do
    strip --strip-all -o "$folder/$program" "$built/debug/$program"
done
strip --strip-all -o "$folder/rig-init" "$built/static/$host/initrd/rig-init"

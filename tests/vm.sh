#!/usr/bin/env bash
# The image on hardware that moves, breaks, forgets and is tampered with: every row is a real boot in QEMU.
#
#   tests/vm.sh              all rows, one after the other; writes the table tests/reports/vm.md. Hours.
#   tests/vm.sh WORD…        the rows whose names have one of the words; writes nothing.
#
# Needs root. The image is built from debug programs, unless RIG_VM_IMAGE (and RIG_VM_IMAGE_4K, for 4096-byte sectors)
# name raw images. Sticks lie in RIG_VM_DIR, or target/vm: up to 4 GB, sparse. The last line is `N passed, N failed`.
set -uo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tests")
cd "$root" || exit 2
exec </dev/null
built=${CARGO_TARGET_DIR:-$root/target}
export RIG_VM_DIR=${RIG_VM_DIR:-$root/target/vm}
report=$tests/reports/vm.md

say() { printf '== %s (%d s)\n' "$*" "$SECONDS"; }
fail() { printf 'vm: %s\n' "$*" >&2; exit 1; }

"$tests/setup.sh" || exit 1
mkdir -p "$RIG_VM_DIR"
cargo build --quiet --locked --workspace || exit 1
binary=$(cargo test --quiet --locked -p testbed --test vm --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\/vm-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$binary" ] || fail "the rows were not built"

# build_image NAME OPTIONS…: builds an image, and prints where its raw disk is. Debian's mirrors drop packages that were
# replaced; then the newest are tested, and it is time for `rig image lock`.
build_image() {
    local image=("$built/debug/rig" image build --json --programs "$RIG_VM_DIR/programs" --out "$RIG_VM_DIR/$1" "${@:2}") said
    if ! said=$("${image[@]}"); then
        printf '%s\nvm: NOT the locked packages: trying the newest ones\n' "$said" >&2
        said=$("${image[@]}" --renew) || return 1
    fi
    sed -n 's/.*"raw":"\([^"]*\)".*/\1/p' <<<"$said"
}

mapfile -t rows < <("$binary" --list | sed -n 's/^\(in_vm::.*\): test$/\1/p')
if [ "$#" -gt 0 ]; then
    wanted=()
    for row in "${rows[@]}"; do
        for word in "$@"; do
            if [[ $row == *"$word"* ]]; then wanted+=("$row"); break; fi
        done
    done
    rows=("${wanted[@]}")
    [ "${#rows[@]}" -gt 0 ] || fail "no row has such a name"
fi

if [ -z "${RIG_VM_IMAGE:-}" ]; then
    say "building the image"
    "$tests/image-programs.sh" "$RIG_VM_DIR/programs" || exit 1
    RIG_VM_IMAGE=$(build_image image)
    [ -f "$RIG_VM_IMAGE" ] || fail "the image was not built"
fi
if [[ " ${rows[*]} " == *4096* ]] && [ -z "${RIG_VM_IMAGE_4K:-}" ]; then
    RIG_VM_IMAGE_4K=$(build_image image-4k --sector-size 4096)
fi
export RIG_VM_IMAGE RIG_VM_IMAGE_4K=${RIG_VM_IMAGE_4K:-}

passed=0
failed=0
lines=$RIG_VM_DIR/lines.md
: >"$lines"
rm -rf "$RIG_VM_DIR/rows"

# line NAME SEEN SECONDS STATUS: one line of the table.
line() {
    printf '| %s | %s | %s | %s |\n' "$1" "$4" "$2" "$3" >>"$lines"
    if [ "$4" = passed ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

# A release is what it is built from: the same again, byte for byte.
same_image_twice() {
    local began=$SECONDS first second
    [ -d "$RIG_VM_DIR/programs" ] || return 0
    say "two builds of one image"
    first=$(sha256sum "$RIG_VM_IMAGE" | cut -d' ' -f1)
    second=$(build_image image-again)
    second=$(sha256sum "$second" | cut -d' ' -f1)
    rm -rf "$RIG_VM_DIR/image-again"
    if [ "$first" = "$second" ]; then
        line "two builds of one image" "both ${first:0:16}…" "$((SECONDS - began))" passed
    else
        line "two builds of one image" "${first:0:16}… and ${second:0:16}…" "$((SECONDS - began))" FAILED
    fi
}

[ "$#" -gt 0 ] || same_image_twice
for row in "${rows[@]}"; do
    began=$SECONDS
    say "${row##*::}"
    # A process of its own for each: a row moves its thread into a network namespace.
    "$binary" --exact "$row" --nocapture 2>&1 | tee "$RIG_VM_DIR/row.log"
    status=${PIPESTATUS[0]}
    seen=$(sed -n 's/^row: \(.*\) | \(.*\)$/\2/p' "$RIG_VM_DIR/row.log" | tail -n 1)
    name=$(sed -n 's/^row: \(.*\) | \(.*\)$/\1/p' "$RIG_VM_DIR/row.log" | tail -n 1)
    if [ "$status" -eq 0 ]; then
        line "${name:-${row##*::}}" "$seen" "$((SECONDS - began))" passed
    else
        line "${row##*::}" "see the log" "$((SECONDS - began))" FAILED
    fi
done

if [ "$#" -eq 0 ]; then
    {
        printf '# Boots of the image\n\n'
        printf 'Written by `tests/vm.sh`. Each row is a real boot, or several, in QEMU with UEFI firmware and a TPM\n'
        printf 'emulator. The processor is emulated, so times are several times those of a real one.\n\n'
        printf '| row | result | what was seen | seconds |\n|---|---|---|---|\n'
        cat "$lines"
    } >"$report"
fi
cat "$lines"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]

#!/usr/bin/env bash
# The image on hardware that moves, breaks, forgets and is tampered with: every row is a real boot in QEMU.
#
#   tests/vm.sh              all rows, one after the other; writes the table tests/reports/vm.md. An hour and a half.
#   tests/vm.sh --again      the same, without the rows that passed before with the same image.
#   tests/vm.sh WORD…        the rows whose names have one of the words; the table stays as it is.
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

# Rows that are no test of the binary: the first process alone on every kind of disk, and flips that are not booted.
mapfile -t rows < <("$binary" --list | sed -n 's/^\(in_vm::.*\): test$/\1/p')
rows+=(the_first_process_on_every_kind_of_disk flipped_bits_are_refused_by_the_code_that_boots two_builds_of_one_image)
again=
if [ "${1:-}" = --again ]; then
    again=1
    shift
fi
words=("$@")
if [ "${#words[@]}" -gt 0 ]; then
    wanted=()
    for row in "${rows[@]}"; do
        for word in "${words[@]}"; do
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
sum=$(sha256sum "$RIG_VM_IMAGE" | cut -d' ' -f1)

# What each row came to with this image, a file each: the table's line.
lines=$RIG_VM_DIR/lines/$sum
mkdir -p "$lines"

# A release is what it is built from: the same again, byte for byte.
two_builds_of_one_image() {
    local again
    [ -d "$RIG_VM_DIR/programs" ] || fail "the image's programs are not in $RIG_VM_DIR/programs"
    again=$(build_image image-again)
    again=$(sha256sum "$again" | cut -d' ' -f1)
    rm -rf "$RIG_VM_DIR/image-again"
    printf 'row: two builds of one image | %s and %s\n' "${sum:0:16}…" "${again:0:16}…"
    [ "$again" = "$sum" ]
}

the_first_process_on_every_kind_of_disk() {
    cargo test --quiet --locked -p initrd --test boot -- in_vm:: || return 1
    printf 'row: the first process alone | USB, NVMe, SATA, SD, virtio, 4096-byte sectors, torn table, two disks, watchdog\n'
}

flipped_bits_are_refused_by_the_code_that_boots() {
    local said
    RIG_IMAGE_DIR=$(dirname "$RIG_VM_IMAGE") cargo test --quiet --locked -p image --test tamper -- --nocapture \
        no_flip_in_the_image_that_was_built | tee "$RIG_VM_DIR/flips.log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || return 1
    said=$(awk '{ count[$2] += $3 }
        END { printf "%d refused, %d harmless, %d accepted", count["refused"], count["harmless"], count["ACCEPTED"] }' \
        "$RIG_VM_DIR/flips.log")
    printf 'row: bits flipped, judged without a boot | %s\n' "$said"
}

# run ROW: a process of its own for each: a row moves its thread into a network namespace.
run() {
    case $1 in
        in_vm::*) "$binary" --exact "$1" --nocapture ;;
        *) "$1" ;;
    esac
}

for row in "${rows[@]}"; do
    if [ -n "$again" ] && grep --quiet '| passed |' "$lines/$row" 2>/dev/null; then continue; fi
    began=$SECONDS
    say "${row##*::}"
    run "$row" 2>&1 | tee "$RIG_VM_DIR/row.log"
    status=${PIPESTATUS[0]}
    seen=$(sed -n 's/^row: \(.*\) | \(.*\)$/\2/p' "$RIG_VM_DIR/row.log" | tail -n 1)
    name=$(sed -n 's/^row: \(.*\) | \(.*\)$/\1/p' "$RIG_VM_DIR/row.log" | tail -n 1)
    result=passed
    if [ "$status" -ne 0 ]; then
        result=FAILED
        seen=${seen:-see the log}
    fi
    printf '| %s | %s | %s | %s |\n' "${name:-${row##*::}}" "$result" "$seen" "$((SECONDS - began))" >"$lines/$row"
done

table=$(cd "$lines" && cat "${rows[@]}")
if [ "${#words[@]}" -eq 0 ]; then
    {
        printf '# Boots of the image\n\n'
        printf 'Written by `tests/vm.sh`. Each row is a real boot, or several, in QEMU with UEFI firmware and a TPM\n'
        printf 'emulator. The processor is emulated, so times are several times those of a real one.\n\n'
        printf 'The image, of debug programs: `%s`.\n\n' "$sum"
        printf '| row | result | what was seen | seconds |\n|---|---|---|---|\n'
        printf '%s\n' "$table"
    } >"$report"
fi
printf '%s\n' "$table"
failed=$(grep --count '| FAILED |' <<<"$table")
printf '%d passed, %d failed\n' "$((${#rows[@]} - failed))" "$failed"
[ "$failed" -eq 0 ]

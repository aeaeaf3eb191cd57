#!/usr/bin/env bash
# Measures and attacks direct CUDA on a machine with an NVIDIA GPU.
#
#   tests/gpu.sh --build [KIT] [--target sm_XX]… [--no-linker] [--userland] [--dev]
#       On the build machine, which needs no GPU: puts all that the report needs into KIT (target/gpu-kit). Machine code
#       is made for each target (sm_90 if none is named); other GPUs run the PTX. --no-linker leaves NVIDIA's PTX linker
#       out, 94 MB that only PTX for other GPUs needs. --userland adds what the image for NVIDIA has of the driver, from
#       the packages of `rig image build --flavour nvidia`: PTX is then compiled by the image's linker, and where the
#       machine's kernel has the driver of the same version, all runs on the image's libcuda and NVML, too.
#       --dev takes debug builds, for trying the report itself.
#   tests/gpu.sh [KIT] [--out DIR] [options of gpu-report run]
#       On the machine with the GPU, which needs KIT and the driver and nothing else: writes gpu-report.json and
#       gpu-report.md into DIR (the current directory), within 8 minutes. As root it runs jobs in the runner's jail;
#       where a jail cannot be made it measures outside, and says so in each row.
#
# Exit status of a report: 0 all is as it must be; 1 a check failed; 2 called wrongly; 3 there is no GPU.
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tests")
kit=$root/target/gpu-kit

say() { printf 'gpu.sh: %s\n' "$*" >&2; }
die() { say "$1"; exit 2; }

readonly BUNDLES=(gemm path-tracer n-body mlp)
# Nothing is begun after so many seconds, and what was begun has so many more: together less than 8 minutes.
readonly SECONDS_MAX=390
readonly GRACE=70

# === On the build machine ===

build() {
    local targets=() linker=1 userland=0 profile=release
    if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then kit=$1; shift; fi
    while [ $# -gt 0 ]; do
        case $1 in
            --target) targets+=("${2:?--target takes a GPU, such as sm_90}"); shift 2 ;;
            --no-linker) linker=0; shift ;;
            --userland) userland=1; shift ;;
            --dev) profile=dev; shift ;;
            *) die "--build knows no $1" ;;
        esac
    done
    [ ${#targets[@]} -gt 0 ] || targets=(sm_90)

    [ ! -e "$kit" ] || [ -e "$kit/bin/gpu-report" ] || [ -z "$(ls -A "$kit")" ] || die "$kit holds something else"
    local toolkit=${RIG_CUDA_TOOLKIT:-$root/target/cuda-toolkit}
    [ -d "$toolkit" ] || "$tests/setup.sh"
    cd "$root"
    RIG_REVISION=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
    [ -z "$(git status --porcelain 2>/dev/null)" ] || RIG_REVISION+=+
    export RIG_REVISION
    say "building programs of $RIG_REVISION"
    cargo build --quiet --profile "$profile" -p runner -p cuda -p provisioning -p gpu_report \
        --bin rig-runner --bin rig-cuda --bin rig --bin gpu-report
    local built=${CARGO_TARGET_DIR:-$root/target}/$profile
    [ "$profile" != dev ] || built=${CARGO_TARGET_DIR:-$root/target}/debug

    rm -rf "$kit"
    mkdir -p "$kit"/{bin,lib,bundles,cubins}
    install -m 0755 "$built"/{rig-runner,rig-cuda,gpu-report} "$kit/bin/"
    say "building bundles"
    local name target
    for name in "${BUNDLES[@]}"; do
        bundle "$tests/bundles/$name" "$kit/bundles/$name.bundle"
        for target in "${targets[@]}"; do
            bundle "$tests/bundles/$name" "$kit/bundles/$name.$target.bundle" --target "$target"
        done
    done
    # As PTX alone: a GPU's machine code of it is made below, or by the report.
    for name in faults calls; do bundle "$tests/gpu_report/kernels/$name" "$kit/bundles/$name.bundle"; done
    # This one must not compile; the report shows what was said.
    "$built/rig" cuda build "$tests/gpu_report/kernels/nested" --toolkit "$toolkit" --out "$kit/nested.bundle" \
        >"$kit/nested.txt" 2>&1 </dev/null || true

    local found
    found=$(find -L "$toolkit" -name 'libnvJitLink.so.1?' | sort | tail -n 1)
    [ -n "$found" ] || die "there is no libnvJitLink below $toolkit; tests/setup.sh puts it there"
    install -m 0644 "$found" "$kit/lib/"
    LD_LIBRARY_PATH=$kit/lib "$kit/bin/gpu-report" precompile "$kit" "${targets[@]}"
    [ "$linker" = 1 ] || rm -f "$kit"/lib/libnvJitLink*
    [ "$userland" = 0 ] || userland
    say "$kit is ready: $(du -sh "$kit" | cut -f1)"
}

# The image's libraries, out of the packages that its lock names.
userland() {
    local lock=$root/image/release/nvidia.lock packages=${RIG_IMAGE_CACHE:-$root/target/image/cache}/packages
    local package folder hash
    while read -r package folder; do
        hash=$(sed -n "s/.*{ name = \"$package\", .* sha256 = \"\([0-9a-f]*\)\".*/\1/p" "$lock")
        [ -f "$packages/$hash.deb" ] || die "there is no package $package in $packages; rig image build --flavour nvidia fetches it"
        mkdir -p "$kit/userland/$folder"
        dpkg-deb --fsys-tarfile "$packages/$hash.deb" |
            tar -x -C "$kit/userland/$folder" --wildcards --transform 'flags=r;s:.*/::' '*/lib*.so.*'
    done <<<"libcuda1 driver
libnvidia-ml1 driver
libnvjitlink12 linker"
}

# bundle DIR FILE [OPTION…]
bundle() {
    "$built/rig" cuda build "$1" --toolkit "$toolkit" --out "$2" "${@:3}" >/dev/null </dev/null
}

# === On the machine with the GPU ===

report() {
    if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then kit=$1; shift; fi
    [ -x "$kit/bin/gpu-report" ] || die "there is no $kit/bin/gpu-report; make it with tests/gpu.sh --build on a machine with the sources' toolchain"
    prerequisites
    libraries
    local status=0
    timeout --kill-after=20 $((SECONDS_MAX + GRACE)) "$kit/bin/gpu-report" run --kit "$kit" --seconds "$SECONDS_MAX" "$@" || status=$?
    [ "$status" -ne 124 ] || { say "the report was killed; what it had written is there"; status=1; }
    exit "$status"
}

# What a jail needs, in words; nothing here ends the report.
prerequisites() {
    [ "$(id -u)" -eq 0 ] || say "not root: jobs run outside the jail"
    command -v mkfs.erofs >/dev/null || [ -x /usr/sbin/mkfs.erofs ] ||
        say "there is no mkfs.erofs: jobs run outside the jail; on Debian and Ubuntu install erofs-utils"
    grep -qw erofs /proc/filesystems || say "the kernel has not loaded erofs; jails need it"
    grep -qw landlock /sys/kernel/security/lsm 2>/dev/null || say "the kernel does not say that it has Landlock; jails need it"
    unshare --user --map-root-user true 2>/dev/null || unshare --mount true 2>/dev/null ||
        say "this machine lets nobody make namespaces: jobs run outside the jail"
    command -v nvidia-smi >/dev/null || say "there is no nvidia-smi: nothing is said of power"
}

# Where the driver and the PTX linker are, if the loader does not know.
libraries() {
    local path=$kit/lib dir linker version
    if [ -d "$kit/userland" ]; then
        path=$kit/userland/linker:$path
        version=$(basename "$kit"/userland/driver/libcuda.so.[0-9]*.*)
        version=${version#libcuda.so.}
        if grep -qwF "$version" /proc/driver/nvidia/version 2>/dev/null; then
            path=$kit/userland/driver:$path
            say "the image's driver $version and the kernel's are the same: the report is about the image's libraries"
        else
            say "the kernel's driver is not the image's $version: of the image's libraries, only the linker is used"
        fi
    fi
    if ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then
        for dir in /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/wsl/lib; do
            [ ! -e "$dir/libcuda.so.1" ] || path+=:$dir
        done
    fi
    if ! ls "$kit"/lib/libnvJitLink.so.1? >/dev/null 2>&1; then
        linker=$(python3 -c 'import glob, sysconfig
found = glob.glob(sysconfig.get_path("purelib") + "/nvidia/*/lib/libnvJitLink.so.1?")
print(found[0] if found else "")' 2>/dev/null || true)
        [ -n "$linker" ] || linker=$(ls /usr/local/cuda/lib64/libnvJitLink.so.1? 2>/dev/null | head -n 1 || true)
        [ -z "$linker" ] || path+=:$(dirname "$linker")
    fi
    export LD_LIBRARY_PATH=$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

case ${1:-} in
    --build) shift; build "$@" ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" ;;
    *) report "$@" ;;
esac

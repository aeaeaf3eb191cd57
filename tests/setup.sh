#!/usr/bin/env bash
# Makes a fresh Debian 12 with rustup ready for tests/run.sh and tests/demo.sh, and is quick when nothing is missing.
#
# It installs Debian packages (the only step that needs root or sudo), and puts under target/:
#   devnet/node_modules      anvil, solc and OpenZeppelin, as provisioning/devnet/package-lock.json pins them
#   sdk-venv/                the published OpenGPU SDK, as sdk/requirements.txt pins it
#   cuda-toolkit/            NVIDIA's CUDA compiler, its headers and PTX linker, as cuda/requirements.txt pins them
#   source-image/            an OCI layout, tags handler:1 and store:1, in which the published service framework serves source/handler.py
#   guest/                   a kernel and disks for QEMU: the machine with cgroup v2 in which tests/guest.sh runs tests
#   setup/                   one stamp per finished step: the hash of what the step was made from
#
# A step whose stamp matches is skipped, so editing a pinned file redoes just that step. Nothing here starts a server.
set -euo pipefail

tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tests")
target=$root/target
stamps=$target/setup
devnet=$target/devnet
venv=$target/sdk-venv
image=$target/source-image
toolkit=$target/cuda-toolkit
guest=$target/guest

# The Debian release inside the source image, and the time stamped on every file in it (2026-01-01 UTC).
readonly SUITE=bookworm
readonly EPOCH=1767225600
readonly CREATED=2026-01-01T00:00:00Z
readonly IMAGE_TAG=handler:1
# The same layers with another program: the second service of a source.
readonly STORE_TAG=store:1
# Only what a Python handler needs, unpacked without running maintainer scripts.
readonly IMAGE_PACKAGES=base-files,base-passwd,coreutils,dash,libc-bin,netbase,python3,python3-minimal
# The guest's Debian is one release newer than this machine's: its kernel has Landlock ABI 6 and mounts an EROFS file,
# and its C library runs what is built here.
readonly GUEST_SUITE=trixie
readonly GUEST_PACKAGES=base-files,base-passwd,bash,busybox-static,coreutils,dash,e2fsprogs,erofs-utils,findutils,grep,\
hostname,iproute2,kmod,libc-bin,libgcc-s1,linux-image-cloud-amd64,mount,nftables,procps,sed,tar,util-linux
# Room for what a test writes outside /var/rig, and the size of /var/rig: a sparse file, so it costs what is written.
readonly GUEST_ROOT_SLACK_MIB=128
readonly GUEST_SCRATCH=16G

say() { printf 'setup: %s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo --preserve-env=DEBIAN_FRONTEND "$@"; fi
}

hash_of() { sha256sum "$@" | sha256sum | cut -c1-32; }

# fresh STEP HASH: whether STEP was last made from HASH.
fresh() { [ -f "$stamps/$1" ] && [ "$(cat "$stamps/$1")" = "$2" ]; }

stamp() { mkdir -p "$stamps" && printf '%s' "$2" >"$stamps/$1"; }

# === Debian packages ===

missing_packages() {
    has cc && has make || echo build-essential
    has pkg-config || echo pkg-config
    has node || echo nodejs
    has npm || echo npm
    has python3 || echo python3
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
    has docker-registry || echo docker-registry
    has skopeo || echo skopeo
    has umoci || echo umoci
    has mmdebstrap || echo mmdebstrap
    has ip || echo iproute2
    has bwrap || echo bubblewrap
    [ -x /bin/busybox ] || echo busybox-static
    [ -x /usr/bin/crun ] || echo crun
    [ -x /usr/sbin/runc ] || echo runc
    [ -x /sbin/mke2fs ] || echo e2fsprogs
    has mkfs.erofs || echo erofs-utils
    has veritysetup || echo cryptsetup-bin
    [ -x /usr/sbin/nft ] || echo nftables
    has qemu-system-x86_64 || echo qemu-system-x86
    [ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || echo ovmf
    has mcopy || echo mtools
    [ -x /usr/sbin/mkfs.vfat ] || echo dosfstools
    has swtpm || echo swtpm
    has swtpm_setup || echo swtpm-tools
    has strace || echo strace
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
}

install_packages() {
    local missing
    missing=$(missing_packages)
    [ -n "$missing" ] || return 0
    say "installing Debian packages:" $missing
    export DEBIAN_FRONTEND=noninteractive
    # The tests run docker-registry themselves, on a free loopback port. Debian's unit would hold port 5000 on every
    # interface, so it is masked before the package can start it.
    if [ ! -e /etc/systemd/system/docker-registry.service ]; then
        as_root mkdir -p /etc/systemd/system
        as_root ln -s /dev/null /etc/systemd/system/docker-registry.service
    fi
    as_root apt-get update -qq
    # shellcheck disable=SC2086  # one word per package
    as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# === the devnet's node_modules ===

install_node_modules() {
    local lock=$root/provisioning/devnet/package-lock.json made_from
    made_from=$(hash_of <(cat "$lock" "$root/provisioning/devnet/package.json"))
    if fresh node-modules "$made_from" && [ -d "$devnet/node_modules" ]; then return 0; fi
    say "installing the devnet's npm packages"
    mkdir -p "$devnet"
    cp "$root"/provisioning/devnet/package.json "$lock" "$devnet/"
    npm ci --prefix "$devnet" --no-audit --no-fund --loglevel=error </dev/null >&2
    stamp node-modules "$made_from"
}

# === the SDK ===

install_sdk() {
    local made_from
    made_from=$(hash_of <(cat "$tests/sdk/requirements.txt"; python3 --version))
    if fresh sdk "$made_from" && [ -x "$venv/bin/python" ]; then return 0; fi
    say "installing the OpenGPU SDK"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$tests/sdk/requirements.txt" </dev/null >&2
    stamp sdk "$made_from"
}

# === the CUDA toolkit ===

# None of it needs a GPU. The archives carry each library twice, a runtime for host programs, and templates that no kernel
# here includes; those are dropped, which leaves 206 MB.
install_toolkit() {
    local made_from
    made_from=$(hash_of "$tests/cuda/requirements.txt" "$tests/setup.sh")
    if fresh cuda-toolkit "$made_from" && [ -d "$toolkit/nvidia" ]; then return 0; fi
    say "installing the CUDA compiler"
    rm -rf "$toolkit"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --no-deps --no-compile --require-hashes \
        --only-binary=:all: --target "$toolkit" -r "$tests/cuda/requirements.txt" </dev/null >&2
    rm -rf "$toolkit"/nvidia/cuda_runtime/lib "$toolkit"/nvidia/cuda_cccl/{lib,.metadata} \
        "$toolkit"/nvidia/cuda_cccl/include/{cub,thrust}
    find "$toolkit" \( -name '*.alt.so*' -o -name '*.a' \) -delete
    stamp cuda-toolkit "$made_from"
}

# === the source image ===

# Prints the address of the Debian archive that this machine's apt uses.
debian_mirror() {
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Codename: $SUITE" | head -n 1)
    [ -n "$mirror" ] || { say "apt knows no Debian archive with $SUITE; run apt-get update"; return 1; }
    printf '%s' "$mirror"
}

# make_root DIR: a Debian without maintainer scripts, without documents, and without traces of this machine.
make_root() {
    as_root mmdebstrap --quiet --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --include="$IMAGE_PACKAGES" "$SUITE" "$1" "$(debian_mirror)" >&2
    as_root rm -rf "$1"/usr/share/{doc,man,info,locale,lintian,bug,menu} "$1"/usr/lib/x86_64-linux-gnu/gconv \
        "$1"/usr/lib/python3.11/{idlelib,lib2to3,pydoc_data,turtledemo} "$1"/var/{cache,lib,log}/* "$1"/etc/apt "$1"/dev/*
    as_root cp "$1/usr/share/base-passwd/passwd.master" "$1/etc/passwd"
    as_root cp "$1/usr/share/base-passwd/group.master" "$1/etc/group"
    printf 'source\n' | as_root tee "$1/etc/hostname" >/dev/null
    as_root rm -f "$1/etc/resolv.conf"
    as_root touch "$1/etc/resolv.conf"
}

# make_packages DIR: the framework and what it needs, for the image's Python whatever this machine's is.
make_packages() {
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$1" --only-binary=:all: \
        --python-version 3.11 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
        -r "$tests/source/requirements.txt" </dev/null >&2
    rm -rf "$1/bin" "$1/Crypto/SelfTest" "$1/web3/tools" "$1/ens/specs"
    find "$1" -type d \( -name __pycache__ -o -name tests \) -prune -exec rm -rf {} +
    find "$1" -name '*.pyi' -delete
}

# compile_python ROOT PATHS…: byte code that is valid whatever the files' times are; without it each start of a
# container would compile 2,000 modules.
compile_python() {
    as_root chroot "$1" /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash "${@:2}"
}

# add_layer ROOT COMMENT PATHS…: the paths (relative to ROOT) as one more layer, with no time or owner of this machine.
add_layer() {
    as_root tar --directory="$1" --create --sort=name --mtime="@$EPOCH" --owner=0 --group=0 --numeric-owner \
        --format=gnu --file="$work/layer.tar" "${@:3}"
    as_root chown "$(id -u)" "$work/layer.tar"
    umoci raw add-layer --image "$work/layout:$IMAGE_TAG" --history.created "$CREATED" --history.comment "$2" "$work/layer.tar"
}

# pack_image ROOT: three layers, the least often changed first, so that a changed handler moves a few hundred bytes.
pack_image() {
    umoci init --layout "$work/layout"
    umoci new --image "$work/layout:$IMAGE_TAG"
    add_layer "$1" "Debian with Python" --exclude=./opt --exclude=./srv .
    add_layer "$1" "the OpenGPU service framework" ./opt
    add_layer "$1" "the handler" ./srv
    umoci config --image "$work/layout:$IMAGE_TAG" --created "$CREATED" --no-history --os linux --architecture amd64 \
        --config.env PATH=/usr/local/bin:/usr/bin:/bin --config.env PYTHONPATH=/opt/packages \
        --config.env PYTHONUNBUFFERED=1 --config.env PYTHONDONTWRITEBYTECODE=1 \
        --config.workingdir /srv --config.exposedports 5555 \
        --config.entrypoint /usr/bin/python3 --config.entrypoint /srv/handler.py
    umoci tag --image "$work/layout:$IMAGE_TAG" "$STORE_TAG"
    umoci config --image "$work/layout:$STORE_TAG" --created "$CREATED" --no-history \
        --clear=config.entrypoint --clear=config.exposedports --config.exposedports 11434 \
        --config.entrypoint /usr/bin/python3 --config.entrypoint /srv/store.py
}

build_image() {
    local made_from
    made_from=$(hash_of "$tests/source/handler.py" "$tests/source/store.py" "$tests/source/requirements.txt" "$tests/setup.sh")
    if fresh source-image "$made_from" && [ -f "$image/index.json" ]; then return 0; fi
    say "building the source image"
    work=$(mktemp -d "$target/setup/image.XXXXXX")
    trap 'as_root rm -rf "$work"' EXIT
    make_root "$work/root"
    make_packages "$work/packages"
    as_root mkdir -p "$work/root/opt"
    as_root cp -r "$work/packages" "$work/root/opt/packages"
    as_root chmod -R u=rwX,go=rX "$work/root/opt"
    as_root install -D -m 0644 "$tests/source/handler.py" "$work/root/srv/handler.py"
    as_root install -D -m 0644 "$tests/source/store.py" "$work/root/srv/store.py"
    compile_python "$work/root" /usr/lib/python3.11 /opt/packages
    pack_image "$work/root"
    rm -rf "$image"
    mv "$work/layout" "$image"
    as_root rm -rf "$work"
    trap - EXIT
    stamp source-image "$made_from"
}

# === the guest ===

# make_guest_root DIR: a Debian with a kernel, without maintainer scripts, whose first process is guest/init.sh.
make_guest_root() {
    as_root mmdebstrap --quiet --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --include="$GUEST_PACKAGES" "$GUEST_SUITE" "$1" "$(debian_mirror)" >&2
    as_root rm -rf "$1"/usr/share/{doc,man,info,locale,lintian,bug,menu,zoneinfo} "$1"/var/{cache,lib,log}/* \
        "$1"/etc/apt "$1"/dev/*
    as_root cp "$1/usr/share/base-passwd/passwd.master" "$1/etc/passwd"
    as_root cp "$1/usr/share/base-passwd/group.master" "$1/etc/group"
    as_root chroot "$1" /sbin/depmod "$(ls "$1/usr/lib/modules")"
    as_root install -D -m 0755 "$tests/guest/init.sh" "$1/sbin/init"
    as_root mkdir -p "$1/payload" "$1/var/rig"
}

# mke2fs as this user makes a disk for a guest; the root file system holds files that only root may read.
make_guest_disks() {
    local used
    used=$(as_root du -sm "$work/root" | cut -f1)
    as_root /sbin/mke2fs -q -t ext4 -O ^has_journal -m 0 -L root -d "$work/root" "$work/disks/root.ext4" \
        "$((used + GUEST_ROOT_SLACK_MIB))M" >&2
    as_root chown "$(id -u):$(id -g)" "$work/disks/root.ext4"
    /sbin/mke2fs -q -t ext4 -m 0 -L scratch -E lazy_itable_init=1,lazy_journal_init=1 "$work/disks/scratch.ext4" \
        "$GUEST_SCRATCH" >&2
}

build_guest() {
    local made_from
    made_from=$(hash_of "$tests/guest/init.sh" "$tests/setup.sh")
    if fresh guest "$made_from" && [ -f "$guest/vmlinuz" ]; then return 0; fi
    say "building the guest"
    work=$(mktemp -d "$target/setup/guest.XXXXXX")
    trap 'as_root rm -rf "$work"' EXIT
    mkdir "$work/disks"
    make_guest_root "$work/root"
    as_root install -m 0644 -o "$(id -u)" -g "$(id -g)" "$work"/root/boot/vmlinuz-* "$work/disks/vmlinuz"
    as_root rm -rf "$work/root/boot"
    make_guest_disks
    rm -rf "$guest"
    mv "$work/disks" "$guest"
    as_root rm -rf "$work"
    trap - EXIT
    stamp guest "$made_from"
}

mkdir -p "$stamps"
# Two callers at once would undo each other's steps: the second waits here, then finds everything done.
exec 9>"$stamps/lock"
flock 9
install_packages
install_node_modules
install_sdk
install_toolkit
build_image
build_guest

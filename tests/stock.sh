#!/usr/bin/env bash
# Makes a plain Debian of the release that the image is made from, as a raw disk: what the image is compared with.
#
# The same kernel, systemd, Debian's own initrd, ext4, OpenSSH, a login on the serial port; started by systemd-boot.
# $1 is the disk to write. Needs root. Nothing is made if it is there and this script is older.
set -euo pipefail
disk=${1:?where to write the disk}
readonly SUITE=trixie
readonly PACKAGES=linux-image-amd64,initramfs-tools,zstd,systemd-sysv,systemd-resolved,systemd-timesyncd,dbus,udev,\
systemd-boot-efi,iproute2,openssh-server,sudo,ca-certificates,fdisk,e2fsprogs
readonly ESP_MIB=256 ROOT_MIB=1536

if [ -f "$disk" ] && [ "$disk" -nt "${BASH_SOURCE[0]}" ]; then exit 0; fi
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)
[ -n "$mirror" ] || { echo "stock: apt knows no Debian archive; run apt-get update" >&2; exit 1; }
mkdir -p "$(dirname "$disk")"
work=$(mktemp -d "$disk.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

mmdebstrap --quiet --mode=root --variant=important --include="$PACKAGES" "$SUITE" "$root" \
    "deb $mirror $SUITE main" "deb ${mirror%/}-security $SUITE-security main" >&2
printf 'LABEL=stock / ext4 defaults 0 1\n' >"$root/etc/fstab"
printf 'stock\n' >"$root/etc/hostname"
printf '[Match]\nName=e*\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/10-wired.network"
# What it runs when it is left alone, said once on the serial port: as the rig counts, without the kernel's own.
cat >"$root/etc/systemd/system/count.service" <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'count=$(find /sys/fs/cgroup -mindepth 2 -name cgroup.procs ! -path "*/count.service/*" -exec cat {} + | wc -l); echo "stock processes: $count." >/dev/ttyS0'
UNIT
printf '[Timer]\nOnActiveSec=90\nAccuracySec=1\n[Install]\nWantedBy=timers.target\n' \
    >"$root/etc/systemd/system/count.timer"
chroot "$root" systemctl --quiet enable systemd-networkd serial-getty@ttyS0 count.timer

truncate -s "${ESP_MIB}M" "$work/esp"
mformat -i "$work/esp" -F -v STOCK ::
mmd -i "$work/esp" ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
mcopy -i "$work/esp" "$root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
mcopy -i "$work/esp" "$root"/boot/vmlinuz-* ::/vmlinuz
mcopy -i "$work/esp" "$root"/boot/initrd.img-* ::/initrd
printf 'timeout 0\n' | mcopy -i "$work/esp" - ::/loader/loader.conf
printf 'title stock\nlinux /vmlinuz\ninitrd /initrd\noptions root=LABEL=stock ro quiet systemd.show_status=yes console=tty0 console=ttyS0,115200\n' |
    mcopy -i "$work/esp" - ::/loader/entries/stock.conf

truncate -s "$((ESP_MIB + ROOT_MIB + 2))M" "$root/disk"
printf 'label: gpt\nsize=%dMiB, type=U\ntype=L\n' "$ESP_MIB" | chroot "$root" /usr/sbin/sfdisk --quiet /disk
mv "$root/disk" "$work/disk"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
truncate -s "${ROOT_MIB}M" "$work/ext4"
/sbin/mke2fs -q -t ext4 -L stock -d "$root" "$work/ext4"
dd if="$work/esp" of="$work/disk" bs=1M seek=1 conv=notrunc,sparse status=none
dd if="$work/ext4" of="$work/disk" bs=1M seek="$((ESP_MIB + 1))" conv=notrunc,sparse status=none
mv "$work/disk" "$disk"

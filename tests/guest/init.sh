#!/bin/sh
# The first process of the guest: makes a Linux out of a kernel, runs the job of the payload disk, says how it ended,
# powers off.
#
# Disks: the root file system and /var/rig (a real ext4 for state) may be written and are forgotten with the guest;
# /payload is read-only and holds job.sh. There is no network but loopback. Every cgroup v2 controller is on.
#
# The last line on the console is `WORD STATUS`: WORD is the kernel parameter rig.end, STATUS the job's exit status.
# Without that line the guest failed; status 125 is this script's own failure. It fails at the first thing that is not
# as the tests need it.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb

mount -t proc -o nosuid,nodev,noexec proc /proc
word=$(sed -n 's/.*\brig\.end=\([0-9a-f-]*\).*/\1/p' /proc/cmdline)

finish() {
    sync
    printf '\n%s %d\n' "$word" "$1"
    # Changing a terminal's settings waits until all that was written has left it.
    stty sane
    echo o >/proc/sysrq-trigger
    while :; do sleep 60; done
}

need() {
    "$@" || { printf 'guest: failed: %s\n' "$*"; finish 125; }
}

need mount -t devtmpfs -o nosuid dev /dev
exec </dev/console >/dev/console 2>&1
stty -onlcr
need mkdir -p /dev/pts /dev/shm
need mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
need mount -t tmpfs -o nosuid,nodev shm /dev/shm
need mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
need mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
need mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 /sys/fs/cgroup
need mount -t tmpfs -o nosuid,nodev,mode=755 run /run
need mount -t tmpfs -o nosuid,nodev,mode=1777 tmp /tmp
need ip link set lo up
need hostname guest

# What the rig uses, and what stands between a source and the network. The rest is loaded on demand.
need modprobe -a virtio_blk loop overlay erofs veth nf_tables nft_ct nft_nat nft_masq nft_limit nft_quota

# As a service manager would for a service to which it delegates them.
for controller in cpu io memory pids; do
    need sh -c "echo +$controller >/sys/fs/cgroup/cgroup.subtree_control"
done

# disk SERIAL: the block device with that serial number.
disk() {
    grep -lx "$1" /sys/block/vd*/serial | cut -d/ -f4
}

need mount -o ro "/dev/$(disk payload)" /payload
need mount -o nosuid,nodev "/dev/$(disk scratch)" /var/rig
need mkdir -p -m 1777 /var/rig/tmp
export TMPDIR=/var/rig/tmp

read -r up _ </proc/uptime
printf 'guest: Linux %s, up after %s s\n' "$(uname -r)" "$up"
cd /root || finish 125
setsid sh /payload/job.sh </dev/null
finish $?

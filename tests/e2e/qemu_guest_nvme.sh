#!/bin/sh
# In the guest: a file system on the disk, files that are the same after a remount.
set -eu
disk=/dev/nvme0n1
for _ in $(seq 100); do [ -b "$disk" ] || sleep 0.1; done
echo "driver $(basename "$(readlink -f /sys/class/nvme/nvme0/device/driver)")"
mke2fs "$disk" >/dev/null 2>&1
mkdir disk
mount -t ext4 "$disk" disk
for number in 1 2 3 4 5; do head -c 4000000 /dev/urandom >disk/$number; done
(cd disk && sha256sum 1 2 3 4 5) >sums
umount disk
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 "$disk" disk
(cd disk && sha256sum -c -s ../sums) && echo "the files came back"
umount disk
awk '/nvme0q1/ { for (i = 2; $i ~ /^[0-9]+$/; ++i) n += $i } END { if (n > 0) print "interrupts came" }' /proc/interrupts

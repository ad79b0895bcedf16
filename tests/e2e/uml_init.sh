#!/bin/sh
# Init of the User-Mode Linux guest, whose root file system is this machine's. $uvfio_step, from the kernel's command line:
#   write   makes a file system on the NVMe disk, fills it with 200 MB, and prints "synced" when all of it is on the disk
#           (and $uvfio_wait, if set, is there: waits for somebody to end the machine)
#   check   checks file system and files
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mkdir /tmp/disk
disk=/dev/nvme0n1

finish() {
  echo "result $1"
  busybox poweroff -f
}

[ -b "$disk" ] || finish "there is no $disk"
case $uvfio_step in
write)
  mkfs.ext4 -q -F "$disk" || finish "mkfs $?"
  mount -t ext4 "$disk" /tmp/disk || finish "mount $?"
  cd /tmp/disk
  for number in $(seq 50); do
    mkdir -p "$((number % 7))"
    head -c 4194304 /dev/urandom >"$((number % 7))/$number" || finish "write $?"
  done
  find . -type f | sort | xargs sha256sum >/tmp/sums
  cp /tmp/sums sums
  sync
  echo synced
  [ -z "$uvfio_wait" ] || sleep 600
  cd /
  umount /tmp/disk || finish "umount $?"
  ;;
check)
  # A disk that lost its power has a journal to replay; then there is nothing to repair.
  mount -t ext4 "$disk" /tmp/disk || finish "mount $?"
  [ "$(find /tmp/disk -type f -size 4096k | wc -l)" = 50 ] || finish "files are missing"
  (cd /tmp/disk && sha256sum --quiet -c sums) || finish "sums differ"
  umount /tmp/disk || finish "umount $?"
  e2fsck -fn "$disk" >/tmp/fsck 2>&1 || { cat /tmp/fsck; finish "e2fsck"; }
  ;;
esac
grep nvme /proc/interrupts
finish good

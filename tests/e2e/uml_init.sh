#!/bin/sh
# Init of the User-Mode Linux guest, whose root file system is this machine's. $uvfio_step, from the kernel's command line:
#   write   makes a file system on the NVMe disk, fills it with 200 MB, and prints "synced" when all of it is on the disk
#           (and $uvfio_wait, if set, is there: waits for somebody to end the machine)
#   check   checks file system and files
#   records checks the records of earlier rounds, $uvfio_records (how many of round 1, 2, ...; separated by commas; none: makes
#           a file system), then writes more until somebody ends the machine, and says "record N" when it has been flushed
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
# What record $2 of round $1 holds: text that no other has, from one block to 160 KiB.
content() { yes "round $1 record $2" | head -c $(($2 * 7919 % 163840 + 1)); }

# Records of rounds that had $1, $2, ... of them.
check_records() {
  round=0
  for count; do
    round=$((round + 1))
    for number in $(seq "$count"); do
      content $round "$number" | cmp -s - "$round/$number" || finish "record $number of round $round is lost"
    done
  done
}

case $uvfio_step in
write)
  mkfs.ext4 -q -F "$disk" || finish "mkfs $?"
  mount -t ext4 "$disk" /tmp/disk || finish "mount $?"
  cd /tmp/disk || finish "cd"
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
records)
  counts=$(echo "$uvfio_records" | tr , ' ')
  [ -n "$counts" ] || mkfs.ext4 -q -F "$disk" || finish "mkfs $?"
  mount -t ext4 "$disk" /tmp/disk || finish "mount $?"
  cd /tmp/disk || finish "cd"
  # shellcheck disable=SC2086 # several words
  check_records $counts
  [ -z "$uvfio_last" ] || { cd / && umount /tmp/disk && e2fsck -fn "$disk" >/tmp/fsck 2>&1 || finish "e2fsck"; finish good; }
  # shellcheck disable=SC2086
  set -- $counts
  round=$(($# + 1))
  mkdir -p $round || finish "mkdir $?"
  number=0
  while :; do
    number=$((number + 1))
    content $round $number >"$round/$number" || finish "write $?"
    sync "$round/$number" || finish "sync $?"
    echo "record $number"
  done
  ;;
esac
grep nvme /proc/interrupts
finish good

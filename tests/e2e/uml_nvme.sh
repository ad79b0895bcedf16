#!/bin/sh
# A real Linux kernel, as an ordinary process (User-Mode Linux), with a file system on our NVMe disk through /dev/vfio.
# Usage: uml_nvme.sh UVFIO [CASE ...]      needs tests/clients/prepare uml
set -eu
uvfio=$(realpath "$1")
shift
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
kernel=${XDG_CACHE_HOME:-$HOME/.cache}/linux-uml/linux
[ -x "$kernel" ] || skip "there is no User-Mode Linux: tests/clients/prepare uml"
PATH=$PATH:/sbin:/usr/sbin
command -v mkfs.ext4 >/dev/null && command -v busybox >/dev/null || skip "needs e2fsprogs and busybox"
is_root || skip "the guest's root user is this user: root, to make a file system"
require_uvfio

bdf=0000:01:00.0

# boot DISK PARAMETER ...: output on standard output.
boot() {
  disk=$1
  shift
  # exec: the pid of this subshell is that of uvfio, for whoever wants to kill it.
  exec "$uvfio" run --pci "nvme,file=$disk@$bdf" -- "$kernel" mem=256M "vfio_uml.device=$bdf" rootfstype=hostfs \
      rootflags=/ ro init="$here/uml_init.sh" quiet loglevel=4 con=null con0=fd:0,fd:1 "$@" </dev/null 2>errors
}

new_disk() { truncate -s 512M disk.img; }

expect_result() {
  expect "the guest's result" "result good" "$(tr -d '\r' <"$1" | grep '^result' || tail -n 5 "$1" errors)"
}

case_files_survive_a_reboot() {
  new_disk
  (boot disk.img uvfio_step=write) >output
  expect_result output
  (boot disk.img uvfio_step=check) >output
  expect_result output
  expect_match "interrupts of the disk" '*nvme0q*' "$(cat output)"
  e2fsck -fn disk.img
}

# Flushed is durable: the server dies without a chance to do anything, with the file system mounted.
case_server_killed_after_sync() {
  new_disk
  mkfifo output
  (boot disk.img uvfio_step=write uvfio_wait=1) >output &
  pid=$!
  exec 3<output
  line=
  while read -r line <&3; do
    case $line in synced* | result*) break ;; esac
  done
  expect_match "the guest" 'synced*' "$line"
  kill -KILL "$pid"
  wait "$pid" || true
  # The guest has lost its device with its server; it ends as well.
  cat <&3 >rest
  (boot disk.img uvfio_step=check) >output2
  expect_result output2
}

# The power fails at any point: rounds of writes, each flushed by fsync, and a kill in the middle of them. What a guest has
# said to be flushed, the next one finds. UVFIO_SEED makes it other points.
case_server_killed_at_any_point() {
  new_disk
  seed=${UVFIO_SEED:-1}
  echo "seed $seed"
  records=
  for round in 1 2 3 4 5 6; do
    wanted=$(awk -v seed="$seed$round" 'BEGIN { srand(seed); print 1 + int(rand() * 60) }')
    mkfifo "output$round"
    (boot disk.img uvfio_step=records "uvfio_records=$records") >"output$round" &
    pid=$!
    exec 3<"output$round"
    last=0
    while read -r line <&3; do
      case $line in
      record*) last=$(echo "${line#record }" | tr -d '\r') ;;
      result*) fail "round $round, after $records: $line" ;;
      esac
      [ "$last" -lt "$wanted" ] || break
    done
    kill -KILL "$pid"
    wait "$pid" || true
    # What it has said until it died.
    while read -r line <&3; do
      case $line in record*) last=$(echo "${line#record }" | tr -d '\r') ;; esac
    done
    [ "$last" -ge "$wanted" ] || fail "round $round ended after $last records: $(tail -n 3 errors)"
    records=${records:+$records,}$last
  done
  echo "records: $records"
  (boot disk.img uvfio_step=records "uvfio_records=$records" uvfio_last=1) >output
  expect_result output
}

run_cases "$@"

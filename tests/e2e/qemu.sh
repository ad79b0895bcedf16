#!/bin/sh
# A whole Linux guest in QEMU, whose -device vfio-pci uses our device nodes (legacy container, TCG).
# Usage: qemu.sh UVFIO [CASE ...]      needs tests/clients/prepare qemu
set -eu
uvfio=$(realpath "$1")
shift
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
clients=$here/../clients
UVFIO_QEMU_ROOT=${UVFIO_QEMU_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/qemu-root}
export UVFIO_QEMU_ROOT
[ -x "$UVFIO_QEMU_ROOT/usr/bin/qemu-system-x86_64" ] || skip "there is no QEMU: tests/clients/prepare qemu"
command -v cpio >/dev/null && command -v busybox >/dev/null || skip "needs cpio and busybox-static"
is_root || skip "only root can look into the guest's root directory"
require_uvfio

case_mtty() {
  # shellcheck disable=SC2016 # for the inner shell
  "$uvfio" run --mdev mtty-1 -- sh -c 'exec "$0" -d "vfio-pci,sysfsdev=$UVFIO_SYSFS_0" "$1"' \
      "$clients/run-in-qemu" "$here/qemu_guest_mtty.sh" >output
  expect "what the guest saw" "driver serial
the bytes came back
interrupts came" "$(cat output)"
}

# guest MODEL SCRIPT RUN_IN_QEMU_OPTION ...: a guest with the direct device MODEL.
guest() {
  model=$1
  script=$2
  shift 2
  # shellcheck disable=SC2016
  "$uvfio" run --pci "$model@0000:7f:00.0" -- sh -c 'exec "$@" -d "vfio-pci,sysfsdev=$UVFIO_SYSFS_0" "$0"' \
      "$here/$script" "$clients/run-in-qemu" "$@" >output
}

case_nvme() {
  truncate -s 64M disk.img
  guest nvme,file=disk.img qemu_guest_nvme.sh -m nvme -m ext4
  expect "what the guest saw" "driver nvme
the files came back
interrupts came" "$(cat output)"
}

case_ioat() {
  guest ioat qemu_guest_ioat.sh -m ioatdma
  expect "what the guest saw" "driver ioatdma
channels dma0chan0
interrupts came" "$(cat output)"
}

run_cases "$@"

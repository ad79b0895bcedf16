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

run_cases "$@"

#!/bin/sh
# DPDK's own tests of DMA devices, with DPDK's driver for ioat on ours.
# Usage: dpdk.sh UVFIO [CASE ...]      needs tests/clients/prepare tools
set -eu
uvfio=$(realpath "$1")
shift
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
tools=${XDG_CACHE_HOME:-$HOME/.cache}/uvfio-tools
[ -x "$tools/usr/bin/dpdk-test" ] || skip "there is no DPDK: tests/clients/prepare tools"
require_uvfio

bdf=0000:7f:00.0

# dpdk_test COMMAND OPTION ...: runs a command of dpdk-test. It leaves nothing, and no other DPDK program meets it.
dpdk_test() {
  command=$1
  shift
  libraries=$(echo "$tools"/usr/lib/*-linux-gnu)
  machines=$(echo "${libraries#"$tools"}"/dpdk/pmds-*/librte_dma_ioat.so.??)
  if [ -e "$machines" ]; then
    libraries=  # DPDK is installed here: it loads its own drivers anyway, which go with its own libraries
  else
    set -- "$@" -d "$(echo "$libraries"/dpdk/pmds-*/librte_dma_ioat.so.??)"
  fi
  set -- "$@" -a "$bdf" --iova-mode=va --no-huge -m 256 --no-shconf --no-telemetry
  printf '%s\nquit\n' "$command" | "$uvfio" run --pci "ioat,driver=ioatdma@$bdf" -- env RUNTIME_DIRECTORY="$PWD" \
      LD_LIBRARY_PATH="$libraries:${libraries:+$tools/lib/${libraries##*/}}" sh -eu -c '
    "$0/dpdk-devbind.py" -b vfio-pci "$1"
    shift
    exec "$0/dpdk-test" "$@"' "$tools/usr/bin" "$bdf" "$@" >output 2>&1 || status=$?
  [ "${status:-0}" = 0 ] || { cat output; fail "status $status"; }
}

case_dmadev() {
  # ioat has to find what is written to its registers, and the driver gives it a millisecond for that before the first
  # start, in which the scheduler often does not let it run once (devices/ioat/README.md): then, and only then, again.
  for _ in $(seq 30); do
    dpdk_test dmadev_autotest
    grep -q "Device couldn't be recovered" output || break
  done
  grep -q "^### Test dmadev instance 0 \[$bdf\]" output && grep -q '^Test OK' output || { cat output; exit 1; }
}

run_cases "$@"

#!/bin/sh
# Debian's driverctl and dpdk-devbind.py manage the functions on the host's PCI bus.
# Usage: tools.sh UVFIO EDU_CLIENT [CASE ...]      needs tests/clients/prepare tools
set -eu
uvfio=$(realpath "$1")
client=$(realpath "$2")
shift 2
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
tools=${XDG_CACHE_HOME:-$HOME/.cache}/uvfio-tools
[ -x "$tools/usr/sbin/driverctl" ] && [ -x "$tools/usr/bin/dpdk-devbind.py" ] && command -v lspci >/dev/null ||
  skip "there is no driverctl or no dpdk-devbind.py: tests/clients/prepare tools"
require_uvfio

edu=0000:42:00.0 # in a group with
ioat=0000:42:00.1
other=0000:43:00.0

# inside <SCRIPT: runs a shell script under uvfio, with three functions in two groups, and shows its output.
inside() {
  cat >script
  "$uvfio" run --pci "edu@$edu" --pci "ioat,driver=ioatdma@$ioat" --pci "ioat,driver=ioatdma@$other" -- \
      env edu="$edu" ioat="$ioat" other="$other" client="$client" tools="$tools" sh -eu -c '
    # No option of driverctl but this one would leave anything on the machine.
    driverctl() { "$tools/usr/sbin/driverctl" --nosave "$@"; }
    devbind() { "$tools/usr/bin/dpdk-devbind.py" "$@"; }
    fails() { if "$@"; then return 1; fi; }
    # Without the functions that the machine has.
    ours() { grep -E "^($edu|$ioat|$other) " || true; }
    # What /sys and /dev say: driver and override of each function; whether the group of each has a node; whether VFIO may
    # use the group of the first two.
    state() {
      for each in "$edu" "$ioat" "$other"; do
        d=/sys/bus/pci/devices/$each
        driver=none
        [ ! -e "$d/driver" ] || driver=$(basename "$(readlink -f "$d/driver")")
        [ "$driver" = none ] || [ "$(readlink -f "/sys/bus/pci/drivers/$driver/$each")" = "$(readlink -f "$d")" ]
        node=no
        [ ! -e "/dev/vfio/$(basename "$(readlink -f "$d/iommu_group")")" ] || node=yes
        echo "$each $driver $(cat "$d/driver_override") $node"
      done
      ! [ -e "/dev/vfio/$UVFIO_GROUP_0" ] || "$client" | head -n 1 || true
    }
    . ./script' >output 2>messages || status=$?
  # The machine may have no modules for lspci to tell of.
  grep -v '^lspci: ' messages >errors || true
  [ "${status:-0}" = 0 ] || { cat output errors; fail "the script failed"; }
}

# shows EXPECTED: what the script printed.
shows() {
  cat >expected
  diff expected output || { cat errors; exit 1; }
}

case_driverctl_lists() {
  inside <<'SCRIPT'
driverctl list-devices | ours
driverctl list-devices system | ours
driverctl list-devices storage | ours
driverctl list-overrides | ours
state
SCRIPT
  shows <<TEXT
$edu vfio-pci
$ioat ioatdma
$other ioatdma
$ioat ioatdma
$other ioatdma
$edu vfio-pci (null) yes
$ioat ioatdma (null) yes
$other ioatdma (null) no
viable: NO
TEXT
}

case_driverctl_overrides() {
  find /etc/driverctl.d >before 2>/dev/null || true
  inside <<'SCRIPT'
driverctl set-override "$ioat" vfio-pci
driverctl list-devices | ours
driverctl list-overrides | ours
state
driverctl set-override "pci/$other" vfio-pci
state
driverctl unset-override "$ioat"
state
driverctl set-override "$ioat" none
state
driverctl set-override "$ioat" pci-stub
state
driverctl set-override "$ioat" nvme
state
driverctl unset-override "$ioat"
driverctl unset-override "$other"
driverctl list-overrides | ours
state
SCRIPT
  shows <<TEXT
$edu vfio-pci
$ioat vfio-pci [*]
$other ioatdma
$ioat vfio-pci
$edu vfio-pci (null) yes
$ioat vfio-pci vfio-pci yes
$other ioatdma (null) no
viable: yes
$edu vfio-pci (null) yes
$ioat vfio-pci vfio-pci yes
$other vfio-pci vfio-pci yes
viable: yes
$edu vfio-pci (null) yes
$ioat ioatdma (null) yes
$other vfio-pci vfio-pci yes
viable: NO
$edu vfio-pci (null) yes
$ioat none none yes
$other vfio-pci vfio-pci yes
viable: yes
$edu vfio-pci (null) yes
$ioat pci-stub pci-stub yes
$other vfio-pci vfio-pci yes
viable: yes
$edu vfio-pci (null) yes
$ioat nvme nvme yes
$other vfio-pci vfio-pci yes
viable: NO
$edu vfio-pci (null) yes
$ioat ioatdma (null) yes
$other ioatdma (null) no
viable: NO
TEXT
  find /etc/driverctl.d 2>/dev/null | diff before -
}

case_driverctl_fails() {
  inside <<'SCRIPT'
fails driverctl set-override "$ioat" no_such_driver
fails driverctl set-override 0000:42:1f.7 vfio-pci
# No driver of the host knows it.
fails driverctl unset-override "$edu"
state
SCRIPT
  shows <<TEXT
$edu none (null) no
$ioat ioatdma (null) no
$other ioatdma (null) no
TEXT
  grep '^driverctl:' errors >output
  shows <<TEXT
driverctl: no such module: no_such_driver
driverctl: no such device: 0000:42:1f.7
driverctl: failed to bind device $edu to driver 
TEXT
}

case_devbind_tells_the_status() {
  # The machine's own functions and modules, and the names of ours, depend on the machine.
  inside <<'SCRIPT'
short() { sed "s/ '.*'//; s/ unused=.*//"; }
status() { devbind --status-dev dma | short; }
status
devbind -b vfio-pci "$ioat"
status
devbind -u "$other"
status
devbind --status | ours | short
SCRIPT
  shows <<TEXT

DMA devices using kernel driver
===============================
$ioat drv=ioatdma
$other drv=ioatdma

DMA devices using DPDK-compatible driver
========================================
$ioat drv=vfio-pci

DMA devices using kernel driver
===============================
$other drv=ioatdma

DMA devices using DPDK-compatible driver
========================================
$ioat drv=vfio-pci

Other DMA devices
=================
$other
$ioat drv=vfio-pci
$other
TEXT
}

case_devbind_binds() {
  inside <<'SCRIPT'
devbind -b vfio-pci 42:00.1 '43:00.*'
state
devbind -b ioatdma "$ioat"
state
devbind -u dpdk
state
devbind --bind=vfio-pci "$other"
devbind -b none "$ioat" "$other"
state
devbind -b ioatdma "$ioat" "$other"
state
SCRIPT
  shows <<TEXT
$edu vfio-pci (null) yes
$ioat vfio-pci (null) yes
$other vfio-pci (null) yes
viable: yes
$edu vfio-pci (null) yes
$ioat ioatdma (null) yes
$other vfio-pci (null) yes
viable: NO
$edu vfio-pci (null) yes
$ioat ioatdma (null) yes
$other none (null) no
viable: NO
$edu vfio-pci (null) yes
$ioat none (null) yes
$other none (null) no
viable: yes
$edu vfio-pci (null) yes
$ioat ioatdma (null) yes
$other ioatdma (null) no
viable: NO
TEXT
}

case_devbind_fails() {
  inside <<'SCRIPT'
fails devbind -b no_such_driver "$ioat"
devbind -u "$ioat"
devbind -u "$ioat"
# They do not know it. The tool goes on after that.
devbind -b nvme "$ioat"
devbind -b pci-stub "$ioat"
state
SCRIPT
  shows <<TEXT
$edu vfio-pci (null) yes
$ioat none (null) yes
$other ioatdma (null) no
viable: yes
TEXT
  sed -n "s/ '.*'//; s/ $ioat .* is not / $ioat is not /; /^\(Error\|Notice\|Warning\): /p" errors >output
  shows <<TEXT
Error: Driver is not loaded.
Notice: $ioat is not currently managed by any driver
Error: bind failed for $ioat - Cannot bind to driver nvme: [Errno 19] No such device
Error: bind failed for $ioat - Cannot bind to driver pci-stub: [Errno 19] No such device
TEXT
}

run_cases "$@"

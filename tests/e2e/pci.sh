#!/bin/sh
# Functions on the host's PCI bus: used by a program, and managed through sysfs.
# Usage: pci.sh UVFIO EDU_CLIENT [CASE ...]
set -eu
uvfio=$(realpath "$1")
client=$(realpath "$2")
shift 2
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio

# inside ARG ... <SCRIPT: runs a shell script under uvfio. In it: $d is the first function's directory, and
# `write TEXT FILE` says "ok" or the error.
inside() {
  cat >script
  "$uvfio" run "$@" -- sh -eu -c '
    d=${UVFIO_SYSFS_0-}
    write() { if error=$(echo "$1" | tee "$2" 2>&1 >/dev/null); then echo ok; else echo "${error##*: }"; fi; }
    driver() { basename "$(readlink "$d/driver")"; }
    . ./script'
}

case_a_program_drives_edu() {
  "$uvfio" run --pci edu -- "$client" >output
  grep -q 'DMA there and back: yes' output
}

case_an_ordinary_user_has_one_too() {
  reason=$(user_can_run_uvfio) || { echo "$reason"; exit 77; }
  as_user "$uvfio" run --pci edu -- "$client" >output
  grep -q 'DMA there and back: yes' output
}

case_where_things_are() {
  inside --pci edu@0000:42:03.5 --pci edu,group=other@0000:42:03.6 >output <<'SCRIPT'
echo "$UVFIO_PCI $UVFIO_PCI_0 $UVFIO_PCI_1 $d"
[ "$UVFIO_GROUP_0" != "$UVFIO_GROUP_1" ]
[ -e /dev/vfio/$UVFIO_GROUP_0 ] && [ -e /dev/vfio/$UVFIO_GROUP_1 ]
[ "$(ls "$d/iommu_group/devices")" = 0000:42:03.5 ]
[ "$(readlink -f "$d")" = /sys/devices/pci0000:42/0000:42:03.5 ]
[ "$(readlink -f "$d/subsystem")" = /sys/bus/pci ]
[ -d "$d"/vfio-dev/vfio0 ] && [ -e /sys/class/vfio-dev/vfio0 ]
cat "$d/vendor" "$d/device" "$d/class" "$d/subsystem_vendor" "$d/subsystem_device" "$d/revision" "$d/enable" "$d/numa_node"
cat "$d/modalias" "$d/driver_override"
[ ! -e "$d/reset" ] # two functions share the bus, and neither can reset itself
head -n 1 "$d/resource"
od -A n -t x4 -N 4 "$d/config" | tr -d ' '
[ "$(wc -c <"$d/config")" = 256 ]
grep -q '^DRIVER=vfio-pci$' "$d/uevent"
grep -q '^PCI_SLOT_NAME=0000:42:03.5$' "$d/uevent"
cat /sys/kernel/iommu_groups/$UVFIO_GROUP_0/type /sys/kernel/iommu_groups/$UVFIO_GROUP_0/reserved_regions
for module in vfio vfio_pci vfio_iommu_type1; do [ -d /sys/module/$module ]; done
SCRIPT
  cat >expected <<'TEXT'
0000:42:03.5 0000:42:03.5 0000:42:03.6 /sys/bus/pci/devices/0000:42:03.5
0x1234
0x11e8
0x00ff00
0x1af4
0x1100
0x10
0
-1
pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00
(null)
0x0000000080000000 0x00000000800fffff 0x0000000000040200
11e81234
DMA
0x00000000fee00000 0x00000000feefffff msi
TEXT
  diff expected output
}

case_drivers_bind_and_unbind() {
  inside --pci edu >output <<'SCRIPT'
drivers=/sys/bus/pci/drivers
for each in vfio-pci pci-stub nvme ioatdma; do basename "$(readlink -f $drivers/$each/module)"; done
driver
write "$UVFIO_PCI" $drivers/vfio-pci/bind
write "$UVFIO_PCI" $drivers/nvme/unbind
write "$UVFIO_PCI" $drivers/vfio-pci/unbind
[ ! -e "$d/driver" ] && [ ! -e /dev/vfio/"$UVFIO_GROUP_0" ] && [ ! -e "$d/vfio-dev" ]
write "$UVFIO_PCI" $drivers/vfio-pci/bind
write '1234' $drivers/vfio-pci/new_id
write '1234 11e8' $drivers/vfio-pci/new_id
driver
write '1234 11e8' $drivers/vfio-pci/new_id
write '1234 11e8' $drivers/vfio-pci/remove_id
write '1234 11e8' $drivers/vfio-pci/remove_id
write "$UVFIO_PCI" $drivers/vfio-pci/unbind
write pci-stub "$d/driver_override"
write "$UVFIO_PCI" /sys/bus/pci/drivers_probe
driver
write '' "$d/driver_override"
cat "$d/driver_override"
write 9999:99:99.9 /sys/bus/pci/drivers_probe
SCRIPT
  cat >expected <<'TEXT'
vfio_pci
pci_stub
nvme
ioatdma
vfio-pci
No such device
No such device
ok
No such device
Invalid argument
ok
vfio-pci
File exists
ok
No such device
ok
ok
ok
pci-stub
ok
(null)
No such device
TEXT
  diff expected output
}

case_a_host_driver_keeps_the_group() {
  inside --pci edu@0000:42:00.0 --pci edu,driver=nvme@0000:42:00.1 >output <<SCRIPT
"$client" | sed 1q || true
echo 0000:42:00.1 >/sys/bus/pci/drivers/nvme/unbind
"$client" | sed 1q || true
SCRIPT
  printf 'viable: NO\nviable: yes\n' | diff - output
}

case_remove_and_rescan() {
  inside --pci edu@0000:42:00.0 <<'SCRIPT'
echo 1 >"$d/remove"
[ ! -e "$d" ] && [ ! -e /sys/kernel/iommu_groups/$UVFIO_GROUP_0 ] && [ ! -e /dev/vfio/$UVFIO_GROUP_0 ]
[ ! -e /sys/devices/pci0000:42/0000:42:00.0 ]
echo 1 >/sys/bus/pci/rescan
[ -e "$d/vendor" ] && [ ! -e "$d/driver" ]
echo vfio-pci >"$d/driver_override"
echo "$UVFIO_PCI" >/sys/bus/pci/drivers_probe
[ -e /dev/vfio/$UVFIO_GROUP_0 ]
SCRIPT
}

case_the_machines_own_functions_stay() {
  ls /sys/bus/pci/devices >before
  "$uvfio" run --pci edu@0000:42:00.0 -- ls /sys/bus/pci/devices >after
  grep -v 0000:42:00.0 after | diff before -
  "$uvfio" run --pci edu@0000:00:1f.7 -- ls /sys/devices/pci0000:00/0000:00:1f.7/vendor
}

case_topology_file() {
  cat >lab.toml <<'TOML'
[[iommu]]
name = "small"
aperture = [0, 0xffffffff]
page_sizes = [4096]
reserved = [{ first = 0x1000, last = 0x1fff, kind = "direct" }]

[[pci]]
model = "edu"
address = "0000:42:00.0"
iommu = "small"
dma_mask = 0xffff
TOML
  inside --topology lab.toml >output <<'SCRIPT'
echo $UVFIO_PCI
cat /sys/kernel/iommu_groups/$UVFIO_GROUP_0/reserved_regions
SCRIPT
  printf '0000:42:00.0\n0x0000000000001000 0x0000000000001fff direct\n' | diff - output
}

case_mistakes_are_told() {
  while read -r pattern arguments; do
    status=0
    # shellcheck disable=SC2086 # several words
    "$uvfio" run $arguments -- true 2>errors || status=$?
    expect "exit status of $arguments" 125 "$status"
    expect_match "what $arguments says" "$pattern" "$(tr ' ' _ <errors)"
  done <<'TABLE'
*no_PCI_model_\"nic\";_known_are_edu* --pci nic
*edu_has_no_key_\"size\"* --pci edu,size=1
*dma_mask=x:_not_a_number* --pci edu,dma_mask=x
*not_a_PCI_address* --pci edu@1:2
*given_twice* --pci edu@0000:42:00.0 --pci edu@0000:42:00.0
*no_IOMMU_\"x\"* --pci edu,iommu=x
*names_no_model* --pci ,a=b
*is_not_KEY=VALUE* --pci edu,fast
TABLE
}

run_cases "$@"

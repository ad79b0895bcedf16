#!/bin/sh
# In the guest: Linux's own driver takes the engine, which it does only after a copy that it has compared.
set -eu
device=$(basename "$(dirname "$(grep -l 0x2021 /sys/bus/pci/devices/*/device)")")
dmesg | grep -i -e ioat -e self-test | grep -i -e fail -e error -e timed || true
echo "driver $(basename "$(readlink "/sys/bus/pci/devices/$device/driver")")"
echo "channels $(ls "/sys/bus/pci/devices/$device/dma")"
awk '/ioat-msix/ { for (i = 2; $i ~ /^[0-9]+$/; ++i) n += $i } END { if (n > 0) print "interrupts came" }' /proc/interrupts

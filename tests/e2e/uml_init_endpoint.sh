#!/bin/sh
# Init of a User-Mode Linux guest whose root file system is this machine's: runs $uvfio_test, the kernel's test of
# pci_endpoint_test, but for the kinds of interrupts that User-Mode Linux does not pass through.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
echo "driver $(basename "$(readlink /sys/bus/pci/devices/*/driver)")"
"$uvfio_test" -T LEGACY_IRQ_TEST -T MSI_TEST
awk '/pci-endpoint-test/ && $2 > 0 { ++n } END { print n + 0, "vectors interrupted" }' /proc/interrupts
busybox poweroff -f

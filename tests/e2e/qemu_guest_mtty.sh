#!/bin/sh
# In the guest: the card is there, the guest's own driver has it, and what is sent comes back.
set -eu
for device in /sys/bus/pci/devices/*; do
  [ "$(cat "$device/vendor"):$(cat "$device/device")" = 0x4348:0x3253 ] || continue
  echo "driver $(basename "$(readlink "$device/driver")")"
  for tty in "$device"/tty/* "$device"/*/tty/* "$device"/*/*/tty/*; do [ ! -d "$tty" ] || port=/dev/$(basename "$tty"); done
done
stty -F "$port" raw -echo 115200
# In pieces that its FIFO holds, each waited for; the port stays open, for a close would drop what it has received.
exec 3<>"$port"
for number in $(seq 100 199); do
  printf 'no. %s\n' "$number" >&3
  read -r line <&3
  [ "$line" = "no. $number" ] || { echo "got \"$line\" for $number"; exit 1; }
done
echo "the bytes came back"
irq=$(sed -n "s/.*uart:16550A port:0000\(....\) irq:\([0-9]*\).*/\2/p" /proc/tty/driver/serial | tail -1)
awk -v irq="$irq:" '$1 == irq && $2 > 0 { print "interrupts came" }' /proc/interrupts

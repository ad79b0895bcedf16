#!/bin/sh
# Linux's own pci_endpoint_test drives our endpoint test function, in a real Linux kernel that is an ordinary process
# (User-Mode Linux); the kernel's own test program, unmodified, asks it to.
# Usage: uml_endpoint.sh UVFIO [CASE ...]      needs tests/clients/prepare uml
set -eu
uvfio=$(realpath "$1")
shift
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
linux=${XDG_CACHE_HOME:-$HOME/.cache}/linux-uml
if ! [ -x "$linux/linux" ] || ! [ -x "$linux/pci_endpoint_test" ]; then
  skip "there is no User-Mode Linux, or one without pci_endpoint_test: tests/clients/prepare uml"
fi
command -v busybox >/dev/null || skip "needs busybox"
is_root || skip "the guest's root user is this user: root, to mount"
require_uvfio

# boot: what the guest prints.
boot() {
  "$uvfio" run --pci endpoint@0000:01:00.0 -- "$linux/linux" mem=128M vfio_uml.device=0000:01:00.0 \
      rootfstype=hostfs rootflags=/ ro init="$here/uml_init_endpoint.sh" "uvfio_test=$linux/pci_endpoint_test" \
      quiet loglevel=4 con=null con0=fd:0,fd:1 </dev/null 2>errors | tr -d '\r' >output
}

case_the_kernels_driver_and_test() {
  boot
  # Tests of what the function does not offer are skipped; MSIX_TEST is when it runs out of vectors, so those are counted.
  # A newer kernel may have more tests than are expected here.
  sed 's/^\(ok\|not ok\) [0-9]* /\1 /' output >results
  grep -Fx -f "$here/uml_endpoint.expected" results | diff "$here/uml_endpoint.expected" - || fail "$(tail -n 60 output errors)"
  ! grep '^not ok' results || fail "$(tail -n 60 output errors)"
}

run_cases "$@"

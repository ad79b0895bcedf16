#!/bin/sh
# Mappings of BARs while the function does not decode, sleeps, or is reset: under uvfio as on a real kernel.
# Usage: bar_mapping.sh UVFIO BAR_MAPPING
#
# bar_mapping.expected was made with a disk of QEMU, whose BAR 2 is memory, too:
#   QEMU_ARGS='-device nvme,addr=5.0,serial=x,cmb_size_mb=1,legacy-cmb=on' \
#     tests/oracle/run-in-guest build/release/bin/bar_mapping 0000:00:05.0 2 | sed '$d' >tests/e2e/bar_mapping.expected
set -eu
uvfio=$(realpath "$1")
program=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio
is_root || skip "BARs can be mapped with CAP_SYS_ADMIN only"

status=0
# shellcheck disable=SC2154 # by lib.sh
"$uvfio" run --pci endpoint@0000:01:00.0 -- "$program" 0000:01:00.0 2 >"$work/actual" 2>"$work/errors" || status=$?
if ! diff "$here/bar_mapping.expected" "$work/actual" || [ $status != 0 ]; then
  cat "$work/errors"
  fail "status $status"
fi

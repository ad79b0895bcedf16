#!/bin/sh
# Mappings of processes that exit, exec or are killed, and containers that change hands: under uvfio as on a real kernel.
# Usage: address_space.sh UVFIO ADDRESS_SPACE [CASE ...]
#
# address_space.expected was made with
#   tests/oracle/run-in-guest build/release/bin/address_space | sed '$d' >tests/e2e/address_space.expected
set -eu
uvfio=$(realpath "$1")
program=$(realpath "$2")
shift 2
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio
is_root || skip "it gives up capabilities, and shared memory outlives its process only with CAP_CHECKPOINT_RESTORE"

status=0
# shellcheck disable=SC2154 # by lib.sh
"$uvfio" run --pci edu -- "$program" "$@" >"$work/actual" 2>"$work/errors" || status=$?
if [ $# = 0 ]; then
  cp "$here/address_space.expected" "$work/expected"
else
  for name; do sed -n "/^${name}\\./p" "$here/address_space.expected"; done >"$work/expected"
fi
if ! diff "$work/expected" "$work/actual" || [ $status != 0 ]; then
  cat "$work/errors"
  fail "status $status"
fi

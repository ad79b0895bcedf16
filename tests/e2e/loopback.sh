#!/bin/sh
# An unmodified VFIO program prints under uvfio what it prints on the reference kernel.
# Usage: loopback.sh UVFIO SERIAL_LOOPBACK [CASE ...]
#
# serial_loopback.expected was made with
#   tests/oracle/run-in-linux build/release/bin/serial_loopback | sed '$d' >tests/e2e/serial_loopback.expected
set -eu
uvfio=$(realpath "$1")
program=$(realpath "$2")
shift 2
expected=$(cd "$(dirname "$0")" && pwd)/serial_loopback.expected
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio

# loopback TYPE [PREFIX ...]
loopback() {
  type=$1
  shift
  "$@" "$uvfio" run --mdev "$type" -- "$program" >"$work/actual" || fail "status $?"
  diff -u "$expected" "$work/actual"
}

case_single_port() { loopback mtty-1; }
case_dual_port() { loopback mtty-2; }
case_no_passthrough() {
  "$uvfio" run --no-passthrough --mdev mtty-1 -- "$program" >"$work/actual"
  diff -u "$expected" "$work/actual"
}
case_second_device() {
  "$uvfio" run --mdev mtty-1 --mdev mtty-2 -- sh -c "'$program' \$UVFIO_MDEV_1" >"$work/actual"
  diff -u "$expected" "$work/actual"
}
case_user_single_port() {
  user_can_run_uvfio || return 77
  as_user test -x "$program" || return 77
  loopback mtty-1 as_user
}
case_user_dual_port() {
  user_can_run_uvfio || return 77
  loopback mtty-2 as_user
}

run_cases "$@"

#!/bin/sh
# Usage: concurrency.sh UVFIO CONCURRENCY [CASE ...]      see concurrency.cc
set -eu
uvfio=$(realpath "$1")
program=$(realpath "$2")
shift 2
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio
is_root || skip "it creates and removes devices, which takes root"
set -- -- "$program" "$@"
for _ in 1 2 3 4 5 6 7 8; do
  set -- --mdev mtty-1 "$@"
done
"$uvfio" run "$@"

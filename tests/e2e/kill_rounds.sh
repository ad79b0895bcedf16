#!/bin/sh
# Usage: kill_rounds.sh UVFIO KILL_ROUNDS E2E_CLIENT      see kill_rounds.cc
set -eu
uvfio=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio
is_root || skip "the walk creates and removes devices, which takes root"
"$uvfio" run --mdev mtty-1 -- "$2" "$3"

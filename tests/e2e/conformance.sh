#!/bin/sh
# The conformance program under uvfio, against what it prints on the reference kernel.
# Usage: conformance.sh UVFIO UVFIO-CONFORMANCE
set -eu
uvfio=$(realpath "$1")
program=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio
# The reference is of root in a kernel that can map regions.
is_root || skip "it creates and removes devices, which takes root"

"$uvfio" run --mdev mtty-1:83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 -- "$program" >"$work/actual" ||
    { echo "the program failed with status $?"; exit 1; }
"$here/../conformance/compare" "$here/../conformance/reference/linux-7.3.txt" "$work/actual" \
    "$here/../conformance/allowed-differences.txt"

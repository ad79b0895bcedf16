#!/bin/sh
# The conformance program on direct PCI devices under uvfio, against what it prints in a guest with an IOMMU.
# Usage: conformance_direct.sh UVFIO UVFIO-CONFORMANCE
set -eu
uvfio=$(realpath "$1")
program=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio
is_root || skip "it binds drivers and gives up capabilities, which takes root"

conformance=$here/../conformance
"$uvfio" run --topology "$conformance/direct.toml" -- "$program" >"$work/actual" 2>"$work/errors" ||
    { cat "$work/errors"; echo "the program failed"; exit 1; }
"$conformance/compare" "$conformance/reference/linux-6.12-intel-iommu.txt" "$work/actual" \
    "$conformance/allowed-differences-direct.txt"

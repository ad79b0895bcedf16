#!/bin/sh
# Random sequences of calls under uvfio, against what real kernels answered: the first of the seeds that there are.
# tests/sequences/compare does all of them.
# Usage: sequences.sh UVFIO UVFIO-SEQUENCES
set -eu
uvfio=$(realpath "$1")
program=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio
is_root || skip "it creates and removes devices, which takes root"

"$here/../sequences/compare" "$uvfio" "$program" 0 500
"$here/../sequences/compare" --direct "$uvfio" "$program" 0 200

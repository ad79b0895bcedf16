#!/bin/sh
# Random sequences of calls under uvfio, against what real kernels answered: the first of the seeds that there are, or
# all of them (some ten minutes) if UVFIO_LONG_TESTS is set.
# Usage: sequences.sh UVFIO UVFIO-SEQUENCES
set -eu
uvfio=$(realpath "$1")
program=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio
is_root || skip "it creates and removes devices, which takes root"

some='0 500' some_direct='0 200'
[ -z "${UVFIO_LONG_TESTS:-}" ] || some='' some_direct=''
# shellcheck disable=SC2086 # two words, or none
"$here/../sequences/compare" "$uvfio" "$program" $some
# shellcheck disable=SC2086
"$here/../sequences/compare" --direct "$uvfio" "$program" $some_direct

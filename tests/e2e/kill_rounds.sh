#!/bin/sh
# Usage: kill_rounds.sh UVFIO KILL_ROUNDS E2E_CLIENT      see kill_rounds.cc
set -eu
uvfio=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio
is_root || skip "the walk creates and removes devices, which takes root"
# The C library gives threads arenas as they meet; the number of mappings is to depend on the clients alone.
export MALLOC_ARENA_MAX=1
# Memory that AddressSanitizer keeps to find uses after free is no leak.
export ASAN_OPTIONS="quarantine_size_mb=1:thread_local_quarantine_size_kb=64:${ASAN_OPTIONS:-}"
"$uvfio" run --mdev mtty-1 -- "$2" "$3"

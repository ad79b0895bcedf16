#!/bin/sh
# The kernel's own VFIO selftests, on a direct device.
# Usage: selftests.sh UVFIO [CASE ...]      needs tests/clients/prepare selftests
# What they say of iommufd (variants iommufd*, vfio_iommufd_setup_test) is for a kernel that has it.
set -eu
uvfio=$(realpath "$1")
shift
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
programs=${XDG_CACHE_HOME:-$HOME/.cache}/linux-uml/selftests
[ -x "$programs/vfio_pci_driver_test" ] || skip "the selftests are not built: tests/clients/prepare selftests"
require_uvfio

bdf=0000:7f:00.0

# selftest PASSES DEVICE PROGRAM [OPTION ...]: PASSES tests pass, all others are skipped for a reason of theirs.
selftest() {
  passes=$1
  device=$2
  program=$3
  shift 3
  status=0
  VFIO_SELFTESTS_IOMMU_MODE=vfio_type1v2_iommu "$uvfio" run --pci "$device@$bdf" -- \
      "$programs/$program" "$@" "$bdf" >"$program.out" 2>&1 || status=$?
  if [ "$status" != 0 ] || [ "$(grep -c '^ok .*' "$program.out")" -lt "$passes" ]; then
    cat "$program.out"
    fail "$program: status $status"
  fi
  expect "$program: passed" "$passes" "$(grep '^ok ' "$program.out" | grep -vc '# SKIP' || true)"
}

# Huge pages are tried where the machine has them.
huge_pages() {
  free=$(cat "/sys/kernel/mm/hugepages/hugepages-$1kB/free_hugepages" 2>/dev/null || echo 0)
  [ "$free" -gt 0 ] && echo 1 || echo 0
}

# variants NAME ...: both versions of type1.
variants() {
  for name; do printf ' -v vfio_type1_iommu%s -v vfio_type1v2_iommu%s' "$name" "$name"; done
}

case_dma_mapping() {
  mappings=$((2 + 2 * $(huge_pages 2048) + 2 * $(huge_pages 1048576)))
  # shellcheck disable=SC2046 # several words
  selftest $((mappings + 6)) ioat vfio_dma_mapping_test \
      $(variants '' _anonymous _anonymous_hugetlb_2mb _anonymous_hugetlb_1gb)
}

case_dma_mapping_mmio() {
  # shellcheck disable=SC2046
  selftest 6 ioat vfio_dma_mapping_mmio_test $(variants '')
}

case_device() { selftest 5 ioat vfio_pci_device_test; }

case_driver() {
  # shellcheck disable=SC2046
  selftest 12 ioat vfio_pci_driver_test -T memcpy_storm $(variants '')
}

# mix_and_match starts the channel at once after an error, see devices/ioat/README.md.
case_driver_with_faults() {
  # shellcheck disable=SC2046
  selftest 10 ioat,faults=report vfio_pci_driver_test -T mix_and_match -T memcpy_storm $(variants '')
}

# Twice 64 GiB, of which the selftest wants each within a minute.
case_driver_storm() {
  [ "${UVFIO_LONG_TESTS:-}" ] || { echo "    takes 20 s or more: set UVFIO_LONG_TESTS=1"; return 77; }
  others=
  for test in init_remove memcpy_success memcpy_from_unmapped_iova memcpy_to_unmapped_iova send_msi mix_and_match; do
    others="$others -T $test"
  done
  # shellcheck disable=SC2046,SC2086
  selftest 2 ioat vfio_pci_driver_test $others $(variants '')
}

run_cases "$@"

#!/bin/sh
# What "uvfio run" promises besides devices.
# Usage: launcher.sh UVFIO E2E_CLIENT [CASE ...]
set -eu
uvfio=$(realpath "$1")
client=$(realpath "$2")
shift 2
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
require_uvfio

uuid=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
uuid2=83b8f4f2-509f-382f-3c1e-e6bfe0fa1002

# run_uvfio ARG ...: leaves the exit status in $status, and what was printed in files output and errors.
run_uvfio() {
  status=0
  "$uvfio" run "$@" >output 2>errors </dev/null || status=$?
}

# What an "uvfio run" must leave as it was.
machine() {
  cut -d ' ' -f 3- /proc/self/mountinfo
  ls -A /dev /sys /sys/class /sys/bus /sys/devices/virtual
}

# start_client MODE: runs it with a device under uvfio, and waits until it says that it is ready. $pid is uvfio's, file
# descriptor 3 is the client's output: at its end, everything that had it has gone. Descriptor 4 is its input.
start_client() {
  mkfifo in out
  "$uvfio" run --mdev mtty-1:$uuid -- "$client" "$1" $uuid <in >out 2>errors &
  pid=$!
  exec 4>in 3<out
  line=
  read -r line <&3 || true
  expect "the client's first line" ready "$line"
}

wait_status() {
  status=0
  wait "$1" || status=$?
}

expect_end_of_output() { expect "what is left of the output" '' "$(cat <&3)"; }

case_exit_status() {
  echo 'not a program' >data
  chmod 644 data
  while read -r expected command; do
    eval "run_uvfio $command"
    expect "exit status of uvfio run $command" "$expected" "$status"
  done <<'TABLE'
0 -- true
1 -- false
3 -- sh -c 'exit 3'
255 -- sh -c 'exit 255'
125
125 --
125 --no-such-option -- true
126 -- ./data
126 -- /
127 -- ./no-such-file
127 -- no-such-command
127 -- ./data/below-a-file
129 -- sh -c 'kill -HUP $$'
134 -- sh -c 'kill -ABRT $$'
137 -- sh -c 'kill -KILL $$'
143 -- sh -c 'kill -TERM $$'
TABLE
}

case_mediated_disks_stay_in_their_directory() {
  mkdir disks
  "$uvfio" run --nvme-directory disks --mdev nvme-1G:$uuid -- true
  expect "the directory" "$uuid.img" "$(ls disks)"
  expect "the disk's size" 1073741824 "$(stat -c %s "disks/$uuid.img")"
  expect "its blocks" 0 "$(stat -c %b "disks/$uuid.img")"
  # Another size is another disk.
  status=0
  "$uvfio" run --nvme-directory disks --mdev nvme-4G:$uuid -- true 2>errors || status=$?
  expect "with another type" 125 "$status"
  status=0
  "$uvfio" run --nvme-directory no-such-directory -- true 2>errors || status=$?
  expect "without the directory" 125 "$status"
  "$uvfio" run --nvme-directory disks --mdev nvme-1G:$uuid -- true
}

case_refusals() {
  cat >unknown_key.toml <<'TOML'
[[mdev]]
type = "mtty-1"
colour = "red"
TOML
  echo '[[mdev' >broken.toml
  too_many=$(printf '%25s' '' | sed 's/ / --mdev mtty-1/g')
  while IFS='|' read -r arguments pattern; do
    # shellcheck disable=SC2086 # several arguments
    run_uvfio $arguments -- echo started
    expect "exit status of uvfio run $arguments" 125 "$status"
    expect_match "message for $arguments" "$pattern" "$(cat errors)"
    expect "output for $arguments" '' "$(cat output)"
  done <<TABLE
--mdev mtty-9|uvfio: *no mdev type*mtty-9*mtty-1*mtty-2*
--mdev :$uuid|uvfio: *names no type*
--mdev mtty-1:4711|uvfio: *4711*not a UUID*
--mdev mtty-1:$uuid --mdev mtty-2:$uuid|uvfio: *$uuid*twice*
$too_many|uvfio: *no room*mtty-1*
--topology no-such-file.toml|uvfio: *no-such-file.toml*
--topology broken.toml|uvfio: broken.toml:1: *
--topology unknown_key.toml|uvfio: unknown_key.toml:3: *colour*
--pci nvme,file=a,file=b|uvfio: *file*given twice*
--pci edu,driver=../edu|uvfio: *../edu*driver*
TABLE
}

# A block device is a disk as long as nobody else makes use of it.
case_block_device() {
  is_root && command -v mkfs.ext4 >/dev/null || return 77
  truncate -s 32M image
  mkdir mounted
  loop=$(losetup -f --show image 2>/dev/null) || return 77
  trap 'umount -q mounted || true; losetup -d "$loop"' EXIT
  mkfs.ext4 -q "$loop"
  mount "$loop" mounted || return 77
  run_uvfio --pci "nvme,file=$loop" -- echo started
  expect "exit status with it mounted" 125 "$status"
  expect_match "message" "uvfio: *$loop: in use*" "$(cat errors)"
  umount mounted
  run_uvfio --pci "nvme,file=$loop" -- echo started
  expect "output" started "$(cat output)"
}

# A limit that the server meets is an error of that call; the program has its signals as they were.
case_limits() {
  grep '^Sig[BI]' /proc/self/status >expected
  run_uvfio -- grep '^Sig[BI]' /proc/self/status
  diff expected output
  (
    ulimit -f 1000
    run_uvfio --pci endpoint -- echo started
    expect "exit status" 125 "$status"
    expect_match "message" "uvfio: *File too large*" "$(cat errors)"
    mkdir images
    export TMPDIR="$PWD/images"
    run_uvfio --mdev nvme-1G -- echo started
    expect "exit status" 125 "$status"
    expect_match "message" "uvfio: *File too large*" "$(cat errors)"
    expect "images left" "" "$(ls images)"
  )
  # UndefinedBehaviorSanitizer needs descriptors of its own.
  ! ldd "$uvfio" | grep -q libubsan || return 0
  for most in 15 16 17 18 19 20 21 22 23; do
    (
      ulimit -n $most
      run_uvfio -- echo started
      # Either it runs, or it says why and has started nothing.
      if [ "$status" = 0 ]; then
        expect "output with $most descriptors" started "$(cat output)"
      else
        expect "output with $most descriptors" '' "$(cat output)"
        grep -Eq 'Too many open files|ulimit -n' errors || { cat errors; exit 1; }
      fi
    )
  done
}

case_environment() {
  UVFIO_MDEV_7=stale run_uvfio --mdev mtty-1:$uuid --mdev mtty-2:$uuid2 -- env
  # Whoever runs the tests may have variables of their own.
  grep -E '^UVFIO_(GROUP|MDEV|PCI|SYSFS)' output | sort >actual
  sed 's/^\(UVFIO_GROUP_[01]\)=[0-9]*$/\1=N/' actual | diff -u - /dev/fd/5 5<<EXPECTED
UVFIO_GROUP_0=N
UVFIO_GROUP_1=N
UVFIO_MDEV=$uuid
UVFIO_MDEV_0=$uuid
UVFIO_MDEV_1=$uuid2
UVFIO_SYSFS_0=/sys/bus/mdev/devices/$uuid
UVFIO_SYSFS_1=/sys/bus/mdev/devices/$uuid2
EXPECTED
  # shellcheck disable=SC2016 # for the inner shell
  run_uvfio --mdev mtty-1 -- sh -c 'test -c "/dev/vfio/$UVFIO_GROUP_0" || test -e "/dev/vfio/$UVFIO_GROUP_0" &&
      test -d "$UVFIO_SYSFS_0" && test "$(basename "$(readlink "$UVFIO_SYSFS_0/iommu_group")")" = "$UVFIO_GROUP_0"'
  expect "status of the program that looks at its devices" 0 "$status"
}

case_arguments() {
  run_uvfio -- printf '<%s>' '' 'a b' '*' --mdev -- "it's"
  expect "the program's arguments" "<><a b><*><--mdev><--><it's>" "$(cat output)"
}

case_streams() {
  head -c 300000 /dev/urandom >data
  "$uvfio" run --mdev mtty-1 -- sh -c 'cat; echo error >&2' <data >output 2>errors
  cmp data output
  expect "standard error" error "$(cat errors)"
  # Other descriptors of ours are the program's as well, as with any program that starts another.
  echo seven | "$uvfio" run -- sh -c 'cat <&7' 7<&0 >output
  expect "what came through descriptor 7" seven "$(cat output)"
}

case_no_descriptors_leak() {
  # Only what we have ourselves, and the listing's own.
  # shellcheck disable=SC2012
  ls /proc/self/fd >expected
  run_uvfio --mdev mtty-1 -- ls /proc/self/fd
  expect "the program's descriptors" "$(cat expected)" "$(cat output)"
}

case_topology() {
  cat >devices.toml <<TOML
[[mdev]]
type = "mtty-2"
uuid = "$uuid"

[[mdev]]
type = "mtty-1"
TOML
  # shellcheck disable=SC2016 # for the inner shell
  run_uvfio --topology devices.toml --mdev mtty-1:$uuid2 -- sh -c '
    for n in 0 1 2; do
      eval "echo \$(basename \$(readlink \$UVFIO_SYSFS_$n/mdev_type))"
    done
    echo "$UVFIO_MDEV_0" "$UVFIO_MDEV_2"'
  expect "types and UUIDs" "mtty-2
mtty-1
mtty-1
$uuid $uuid2" "$(sed 's/^mtty-mtty/mtty/' output)"
}

case_client() {
  run_uvfio --mdev mtty-1:$uuid -- "$client" use $uuid
  expect "status of a client" 0 "$status"
}

case_sigterm_reaches_program() {
  start_client hold
  kill -TERM "$pid"
  wait_status "$pid"
  expect "status" 143 "$status"
  expect_end_of_output
}

case_signals_can_be_handled() {
  for signal in TERM INT HUP QUIT USR1 USR2; do
    rm -f out
    mkfifo out
    # shellcheck disable=SC2016 # for the inner shell. A shell handles signals while it waits;
    # and what it runs in the background ignores SIGINT and SIGQUIT.
    env --default-signal="$signal" "$uvfio" run -- sh -c 'trap "exit 9" '$signal'; echo ready; sleep 1000 & wait' >out &
    pid=$!
    exec 3<out
    read -r line <&3
    kill -$signal "$pid"
    wait_status "$pid"
    expect "status after SIG$signal" 9 "$status"
    expect_end_of_output
  done
}

case_sigkill_takes_program_along() {
  machine >before
  start_client hold
  kill -KILL "$pid"
  wait_status "$pid"
  expect "status" 137 "$status"
  expect_end_of_output
  machine | diff -u before -
}

case_sigkill_of_program() {
  start_client hold
  # The client is the one that has the command's output open, besides ourselves.
  kill -KILL "$(ps -o pid= --ppid "$pid" | tr -d ' ')"
  wait_status "$pid"
  expect "status" 137 "$status"
}

case_orphan_with_device() {
  machine >before
  start_client orphan
  wait_status "$pid"
  expect "status" 7 "$status"
  expect_end_of_output
  machine | diff -u before -
}

# Each is let go when it is killed, whoever comes first.
case_orphans_that_wait_for_each_other() {
  is_root || return 77
  start_client orphans
  wait_status "$pid"
  expect "status" 7 "$status"
  expect_end_of_output
}

# Nobody else can let it go: its files are closed when its last thread has ended, and that one waits for the close.
# So it has to get its answer as soon as it is killed.
case_program_that_waits_for_itself() {
  is_root || return 77
  run_uvfio --mdev mtty-1:$uuid -- "$client" remove_own $uuid
  expect "status" 7 "$status"
}

case_nothing_left() {
  machine >before
  mkdir tmp
  for command in '--mdev mtty-1 -- true' '--mdev mtty-9 -- true' '--mdev mtty-1 -- ./no-such-file'; do
    # shellcheck disable=SC2086 # several arguments
    TMPDIR=$PWD/tmp run_uvfio $command
  done
  expect "temporary files" '' "$(ls -A tmp)"
  machine | diff -u before -
}

case_side_by_side() {
  start_client hold
  run_uvfio --mdev mtty-1:$uuid2 -- ls /sys/bus/mdev/devices
  expect "devices of the second host" "$uuid2" "$(cat output)"
  run_uvfio --mdev mtty-1:$uuid -- "$client" use $uuid
  expect "status of a client in a second host with the same UUID" 0 "$status"
  exec 4>&-
  wait_status "$pid"
  expect "status of the first host" 0 "$status"
}

# Linux allows a process one listener for its system calls.
case_nested() {
  run_uvfio --mdev mtty-1 -- "$uvfio" run --mdev mtty-1 -- true
  expect "status" 125 "$status"
  expect_match "message" 'uvfio: *Start uvfio outside of it*' "$(cat errors)"
}

# list DIRECTORY ...: names, kinds, and where links lead.
list() {
  for directory; do
    find "$directory" -mindepth 1 -maxdepth 1 -printf "$directory %f %y %l\n"
  done | sort
}

case_rest_of_dev_and_sys_is_the_same() {
  directories='/dev /sys /sys/bus /sys/bus/pci /sys/class /sys/class/net /sys/class/mem /sys/devices
               /sys/devices/virtual /sys/devices/virtual/mem /sys/kernel /sys/module /sys/fs'
  existing=
  for directory in $directories; do
    [ ! -d "$directory" ] || existing="$existing $directory"
  done
  # shellcheck disable=SC2086 # several directories
  list $existing >outside
  {
    sed -n '/^list()/,/^}/p' "$here/launcher.sh"
    echo "list $existing"
  } >script
  run_uvfio --mdev mtty-1 -- sh ./script
  expect "status of the listing" 0 "$status"
  diff outside output >changes || true
  expect "entries that are missing" '' "$(grep '^<' changes || true)"
  # Nothing comes but what is ours; what the machine has already is not in the list of changes.
  expect "unexpected entries" '' "$(grep '^>' changes | grep -vxE \
      '> (/dev vfio d|/sys/bus mdev d|/sys/class (mdev_bus|mtty|nvme|vfio|vfio-dev) d|/sys/devices/virtual (mtty|nvme|vfio) d|/sys/kernel (iommu_groups|uvfio) d|/sys/module (vfio|vfio_iommu_type1|vfio[-_]pci|vfio_pci_core|pci[-_]stub|nvme|ioatdma) d) *' || true)"
  # And what is there works.
  # shellcheck disable=SC2016 # for the inner shell
  run_uvfio -- sh -c 'echo x >/dev/null && test "$(head -c 4 /dev/zero | wc -c)" -eq 4 && cat /sys/class/net/lo/mtu'
  expect "a read of a file of the machine" "$(cat /sys/class/net/lo/mtu)" "$(cat output)"
}

case_node_modes() {
  # shellcheck disable=SC2016 # for the inner shell
  run_uvfio --mdev mtty-1 -- sh -c 'stat -c %a /dev/vfio/vfio "/dev/vfio/$UVFIO_GROUP_0"'
  expect "modes of container and group" '666 600' "$(tr '\n' ' ' <output | sed 's/ $//')"
}

case_chown_gives_a_user_the_group() {
  is_root || return 77
  # shellcheck disable=SC2016 # for the inner shell
  run_uvfio --mdev mtty-1:$uuid -- sh -c '
    user() { setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; }
    user "$0" use '$uuid' 2>&1 && exit 1
    chown 65534 "/dev/vfio/$UVFIO_GROUP_0"
    user "$0" use '$uuid "$client"
  expect "status" 0 "$status"
  expect_match "without the group" "*/dev/vfio/[0-9]*: Permission denied" "$(cat output)"
}

case_ordinary_user() {
  user_can_run_uvfio || return 77
  as_user "$uvfio" run --mdev mtty-1:$uuid -- "$client" use $uuid || fail "status $?"
  expect "the user in uvfio run" "$(as_user id -u)" "$(as_user "$uvfio" run -- id -u)"
}

run_cases "$@"

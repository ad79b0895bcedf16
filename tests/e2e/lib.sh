# shellcheck shell=sh
# For the shell tests: skipping what the machine does not allow, and running cases.
# The including script sets `uvfio`, the path of the command.

work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT

skip() {
  echo "skipped: $*"
  exit 77
}

# Says why "uvfio run" cannot work here at all; one run is the surest probe.
require_uvfio() {
  [ -c /dev/fuse ] || skip "there is no /dev/fuse"
  # shellcheck disable=SC2154 # by the including script
  if ! "$uvfio" run -- true 2>"$work/probe"; then
    grep -Eq 'cannot (make a (user|mount) namespace|make the mounts private|mount)|/dev/fuse' "$work/probe" ||
        { cat "$work/probe" >&2; exit 1; }
    skip "$(head -n 1 "$work/probe")"
  fi
}

is_root() { [ "$(id -u)" = 0 ]; }

# Runs a command as an ordinary user, who may use FUSE as on most machines: if need be with a copy of /dev/fuse that
# only this command sees.
as_user() {
  if ! is_root; then
    "$@"
    return
  fi
  # shellcheck disable=SC2016 # for the inner shell
  unshare --mount sh -c '
    if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
      mknod -m 666 "$0" c 10 229 && mount --bind "$0" /dev/fuse || exit 77
    fi
    exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"' "$(mktemp -u "$work/fuse.XXXXXX")" "$@"
}

# Can an ordinary user run uvfio here? Says why not.
user_can_run_uvfio() {
  as_user test -x "$uvfio" || { echo "an ordinary user may not execute $uvfio"; return 1; }
  as_user unshare --user --mount true 2>/dev/null || { echo "user namespaces are not allowed"; return 1; }
  as_user sh -c '</dev/fuse' 2>/dev/null || { echo "/dev/fuse cannot be opened by users"; return 1; }
}

# A line of why the case failed.
fail() {
  echo "    $*"
  return 1
}

# expect WHAT EXPECTED ACTUAL
expect() {
  [ "$2" = "$3" ] || fail "$1: expected \"$2\", got \"$3\""
}

# expect_match WHAT PATTERN ACTUAL: a pattern as in case.
expect_match() {
  # shellcheck disable=SC2254 # it is a pattern
  case $3 in $2) ;; *) fail "$1: expected $2, got \"$3\"" ;; esac
}

# Runs the functions case_*: those named, or all of the including script. Each in a shell and a directory of its own,
# with -e. A case that returns 77 is skipped.
run_cases() {
  failed=0
  if [ $# = 0 ]; then
    # shellcheck disable=SC2046 # several words
    set -- $(sed -n 's/^case_\([a-z0-9_]*\)() .*/\1/p' "$0")
  fi
  for name; do
    function=case_$name
    mkdir "$work/$name"
    # Not as a condition: that would turn -e off inside.
    set +e
    (cd "$work/$name"; set -e; "$function") >"$work/$name.log" 2>&1
    status=$?
    set -e
    case $status in
      0) echo "ok      $name" ;;
      77) echo "skipped $name"; cat "$work/$name.log" ;;
      *) echo "FAILED  $name"; cat "$work/$name.log"; failed=$((failed + 1)) ;;
    esac
  done
  [ $failed = 0 ]
}

#!/bin/bash
# Keeps docs/write-a-device.md true. Of its fenced blocks
#   - one that follows a line "`FILE`:" is in FILE, word for word; a line "..." stands for lines left out. Under a heading
#     "## N." it is the file of examples/tutorial/N, if there is one, and so is the uvfio that runs;
#   - "console" blocks are run here, in the root of the checkout, and print what they show ("..." within a line: anything);
#   - "sh" blocks say how to build and test, which whoever runs this has done.
# There are no others. Usage: tutorial.sh DIR      with the programs; status 77: it could not run the console blocks
set -euo pipefail
bin=$(realpath "$1")
cd "$(dirname "$0")/../.."
text=docs/write-a-device.md
# shellcheck disable=SC2034 # for lib.sh
uvfio=$bin/uvfio
. tests/e2e/lib.sh
path=$PATH

failed=0
complain() {
  echo "$text:$1: $2"
  failed=1
}

# check_excerpt LINE FILE BLOCK
check_excerpt() {
  [ -f "$2" ] || { complain "$1" "there is no $2"; return; }
  local rest part=
  rest=$'\n'$(<"$2")$'\n'
  while IFS= read -r line; do
    if [ "$line" != ... ]; then
      part+=$line$'\n'
      continue
    fi
    take_part "$1" "$2" && part= || return 0
  done <<<"${3%$'\n'}"$'\n...'
}
# Takes `part` and what is before it from `rest`.
take_part() {
  [[ $rest == *$'\n'"$part"* ]] || { complain "$1" "not in $2:"$'\n'"$part"; return 1; }
  rest=$'\n'${rest#*$'\n'"$part"}
}

# check_console LINE BLOCK
check_console() {
  local command='' expected=''
  while IFS= read -r line; do
    if [[ $line == '$ '* ]]; then
      [ -z "$command" ] || check_command "$1" "$command" "$expected"
      command=${line#??} expected=
    else
      expected+=$line$'\n'
    fi
  done <<<"${2%$'\n'}"
  check_command "$1" "$command" "$expected"
}
check_command() {
  local output pattern
  output=$(bash -c "$2" 2>&1 </dev/null) || complain "$1" "\"$2\" fails"
  pattern=$(printf '%s' "$3" | sed 's/[][*?\\]/\\&/g; s/\.\.\./*/g')
  # shellcheck disable=SC2053 # a pattern
  [[ $output == $pattern ]] || complain "$1" "\"$2\" prints:"$'\n'"$output"
}

consoles=() number=0 step=0 caption='' file='' language='' block='' start=0
while IFS= read -r line; do
  number=$((number + 1))
  if [ "$start" = 0 ]; then
    if [[ $line == '```'* ]]; then
      language=${line#'```'} block='' start=$number file=$caption
      [ -z "$file" ] || [ ! -f "examples/tutorial/$step/$file" ] || file=examples/tutorial/$step/$file
    fi
    caption=
    [[ ! $line =~ ^'## '([0-9]+)'.' ]] || step=${BASH_REMATCH[1]}
    [[ $line =~ ^\`([^\`]+)\`:$ ]] && caption=${BASH_REMATCH[1]}
  elif [ "$line" != '```' ]; then
    block+=$line$'\n'
  else
    if [ -n "$file" ]; then
      check_excerpt "$start" "$file" "$block"
    elif [ "$language" = console ]; then
      consoles+=("$start" "$step" "$block")
    elif [ "$language" != sh ]; then
      complain "$start" "a block of no known kind"
    fi
    start=0
  fi
done <"$text"
[ ${#consoles[@]} -gt 0 ] || complain "$number" "there is no console block"
[ $failed = 0 ] || exit 1

require_uvfio
for ((i = 0; i < ${#consoles[@]}; i += 3)); do
  PATH=$bin/tutorial/${consoles[i + 1]}:$bin:$path check_console "${consoles[i]}" "${consoles[i + 2]}"
done
exit $failed

# shellcheck shell=bash
# Functions that the launchers share.

# fail MESSAGE: reports bad input in one line and exits with code 2.
fail() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit 2
}

# need NAME WHAT: fails unless the environment variable NAME is set.
need() {
  [ -n "${!1:-}" ] || fail "set $1 in the environment: $2"
}

# Prints its arguments quoted, as one line that a shell parses into the same words.
quoted() {
  local word line='' quote="'" escaped="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=@%+,-]*) word=$quote${word//$quote/$escaped}$quote ;;
    esac
    line="${line:+$line }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command, or prints it with DRY_RUN=1.
perform() {
  if [ "${DRY_RUN:-}" = 1 ]; then quoted "$@"; else "$@"; fi
}

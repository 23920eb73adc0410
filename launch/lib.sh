# shellcheck shell=bash
# What the launchers share.

# Bad input: one line, exit code 2.
fail() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit 2
}

# need NAME WHAT: the environment variable NAME must be set.
need() {
  [ -n "${!1:-}" ] || fail "set $1 in the environment: $2"
}

# One line that a shell reads back as the same words.
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

# Runs a command; with DRY_RUN=1 prints it instead.
perform() {
  if [ "${DRY_RUN:-}" = 1 ]; then quoted "$@"; else "$@"; fi
}

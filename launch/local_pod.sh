#!/usr/bin/env bash
# Simulates several hosts on this machine: one run of N processes with M CPU devices each.
#
#   launch/local_pod.sh N M -- COMMAND...
#
# Exits with the first exit code that is not 0. When one process fails, the others are stopped.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
patience=30 # seconds that the others have to exit by themselves

usage='launch/local_pod.sh N M -- COMMAND..., with N processes of M devices, both at least 1'
[ $# -ge 4 ] && [ "$3" = -- ] || fail "usage: $usage"
case $1.$2 in *[!0-9.]* | 0* | *.0* | .* | *.) fail "usage: $usage" ;; esac
processes=$1 devices=$2
shift 3

# A port that nothing listens on, below the range that systems use for outgoing connections.
port=$((20000 + RANDOM % 12000))
while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 12000)); done

settings=(PYTHONUNBUFFERED=1 JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices")

pids=() printers=() started='' asked=''
# A process that was just forked still has this shell's traps, and would drop the signal.
forward() {
  local pid
  sleep 0.3 || true
  for pid in "${pids[@]}"; do kill -s "$1" "$pid" 2>/dev/null || true; done
}
ask() {
  asked=$1
  [ -z "$started" ] || forward "$1"
}
trap 'ask TERM' TERM HUP
trap 'ask INT' INT
pipes=$(mktemp -d)
trap 'rm -rf "$pipes"' EXIT

for ((i = 0; i < processes; i++)); do
  mkfifo "$pipes/$i"
  (
    trap '' TERM INT HUP
    while IFS= read -r line || [ -n "$line" ]; do printf '[%s] %s\n' "$i" "$line"; done
  ) <"$pipes/$i" &
  printers+=($!)
  exec 9>"$pipes/$i"
  # In its own process group, Ctrl-C reaches it only once, through this script.
  set -m
  env "${settings[@]}" "DINADO_DISTRIBUTED=127.0.0.1:$port,$processes,$i" "$@" \
    </dev/null >&9 2>&1 9>&- &
  pids+=($!)
  set +m
  exec 9>&-
done
started=1
[ -z "$asked" ] || forward "$asked"

code=0 failed_at=''
running=("${pids[@]}")
while [ ${#running[@]} -gt 0 ]; do
  still=()
  for pid in "${running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      still+=("$pid")
      continue
    fi
    ended=0
    wait "$pid" || ended=$?
    if [ "$ended" -ne 0 ] && [ "$code" -eq 0 ]; then
      code=$ended failed_at=$SECONDS
      # After a request to stop, all are already saving: a second signal would end them before they finish.
      [ -n "$asked" ] || forward TERM
    fi
  done
  running=(${still[@]+"${still[@]}"})
  if [ -z "$asked" ] && [ -n "$failed_at" ] && [ $((SECONDS - failed_at)) -ge "$patience" ]; then
    forward KILL
  fi
  sleep 0.1 || true
done
# Children that the processes left behind would keep the pipes open.
for pid in "${pids[@]}"; do kill -s KILL -- "-$pid" 2>/dev/null || true; done
wait "${printers[@]}"
exit "$code"

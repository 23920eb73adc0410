#!/usr/bin/env bash
# One process of a run on this host: starts `dinado run`, and restarts it where that helps.
#
#   launch/worker.sh run CONFIG section.key=value ...    in the foreground
#   launch/worker.sh start CONFIG section.key=value ...  detached; the output goes to the log
#   launch/worker.sh status | logs | stop | kill         of the process on this host
#
# Environment: RUN_DIR, LOG_DIR, DINADO, MAX_RESTARTS, RESTART_PAUSE (launch/README.md).
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"

RUN_DIR=${RUN_DIR:-runs}
LOG_DIR=${LOG_DIR:-$RUN_DIR/logs}
DINADO=${DINADO:-dinado}
MAX_RESTARTS=${MAX_RESTARTS:-3}
RESTART_PAUSE=${RESTART_PAUSE:-10}
host=$(uname -n)
host=${host%%.*}
log=$LOG_DIR/$host.log
# SLURM starts several workers on a host.
pid_file=$LOG_DIR/$host${SLURM_JOB_ID:+.$SLURM_JOB_ID.$SLURM_LOCALID}.pid

# Sets pid. The file outlives its process: after a reboot the pid may belong to another process.
running() {
  [ -f "$pid_file" ] && pid=$(<"$pid_file") && ps -p "$pid" -o args= | grep -q 'worker\.sh'
}

check() {
  [ $# -ge 1 ] || fail "a config is missing: launch/worker.sh run CONFIG section.key=value ..."
  command -v "$DINADO" >/dev/null ||
    fail "no program $DINADO: run pip install ., or set DINADO=PATH"
  mkdir -p "$LOG_DIR" 2>/dev/null || fail "cannot create $LOG_DIR: set RUN_DIR to a folder that all hosts share"
  ! running || fail "already running on $host (pid $pid): stop it with launch/worker.sh stop"
}

say() {
  printf 'worker %s %s: %s\n' "$host" "$(date +%Y-%m-%dT%H:%M:%S)" "$1"
}

asked='' interrupted='' child=''
ask() {
  asked=$1 interrupted=1
  [ -z "$child" ] || tell
}
# A process that was just forked still has this shell's traps, and would drop the signal.
tell() {
  sleep 0.3
  kill -s "$asked" "$child" 2>/dev/null
}

# Sets code. A trapped signal ends `wait` before the child exits.
wait_for() {
  child=$1
  [ -z "$asked" ] || tell
  while :; do
    interrupted=''
    wait "$child"
    code=$?
    [ -n "$interrupted" ] || break
  done
  child=''
}

run() {
  local restarts=0 code second commit=''
  local command=("$DINADO" run "$1" "run.folder=$RUN_DIR" "${@:2}")
  echo $$ >"$pid_file"
  trap 'rm -f "$pid_file"' EXIT
  trap 'ask TERM' TERM HUP
  trap 'ask INT' INT

  export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
  # Shared, because JAX writes it only from process 0 and reads it from all processes.
  export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$RUN_DIR/compiled}
  ulimit -n "$(ulimit -Hn)" 2>/dev/null

  [ ! -f "$here/../COMMIT" ] || commit=" at $(<"$here/../COMMIT")"
  while :; do
    say "$(quoted "${command[@]}")$commit"
    # In its own process group, Ctrl-C reaches it only once, through this script. A second signal would
    # end it before it has saved.
    set -m
    "${command[@]}" </dev/null &
    set +m
    wait_for $!
    say "ended with $code"
    case $code in 0 | 2 | 3 | 130) exit "$code" ;; esac
    [ -z "$asked" ] && [ "$restarts" -lt "$MAX_RESTARTS" ] || exit "$code"

    restarts=$((restarts + 1))
    say "starts again in $RESTART_PAUSE s ($restarts of $MAX_RESTARTS)"
    # Sleeps one second at a time, because a trap runs only after the current command.
    for ((second = 0; second < RESTART_PAUSE; second++)); do
      [ -n "$asked" ] || sleep 1
    done
    case $asked in TERM) exit 143 ;; INT) exit 130 ;; esac
  done
}

verb=${1:-}
[ $# -eq 0 ] || shift
case $verb in
  run)
    check "$@"
    run "$@"
    ;;
  start)
    check "$@"
    setsid "$here/worker.sh" run "$@" </dev/null >>"$log" 2>&1 &
    echo "$host: started; log $log"
    ;;
  status)
    if running; then echo "$host: running, pid $pid"; else echo "$host: not running"; fi
    [ ! -f "$log" ] || tail -n 1 "$log"
    ;;
  logs)
    exec tail -n 100 -F "$log"
    ;;
  stop)
    if running; then
      kill -s TERM "$pid" && echo "$host: pid $pid saves and stops"
    else
      echo "$host: not running"
    fi
    ;;
  kill)
    if running; then
      children=$(pgrep -P "$pid")
      kill -s KILL "$pid"
      for child in $children; do kill -s KILL -- "-$child" 2>/dev/null; done
      echo "$host: killed pid $pid"
    else
      echo "$host: not running"
    fi
    ;;
  *) fail "give one of run, start, status, logs, stop, kill" ;;
esac

#!/usr/bin/env bash
# Runs dinado on one node with GPUs, or on several nodes without a scheduler.
#
#   launch/gpu.sh run CONFIG section.key=value ...    all GPUs of this node, one process
#
# Also start, status, logs, stop and kill, as in launch/worker.sh. On several nodes, run the same command
# on each, with COORDINATOR=HOST:PORT (node 0, a free port), NODES=N, NODE=0..N-1 and RUN_DIR, a folder
# that all nodes share. DRY_RUN=1 prints the command.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"

settings=()
if [ -n "${NODES:-}" ]; then
  need NODE "this node's number, from 0"
  need COORDINATOR 'HOST:PORT of node 0'
  need RUN_DIR 'a folder that all nodes share'
  settings=("DINADO_DISTRIBUTED=$COORDINATOR,$NODES,$NODE")
fi
perform exec env ${settings[@]+"${settings[@]}"} "$here/worker.sh" "$@"

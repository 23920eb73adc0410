#!/usr/bin/env bash
# A run on one node with GPUs, or on several without a scheduler.
#
#   launch/gpu.sh run CONFIG section.key=value ...    all GPUs of this node, one process
#
# and start, status, logs, stop, kill as in launch/worker.sh. Several nodes: the same on each, with
# COORDINATOR=HOST:PORT (node 0, a free port), NODES=N, NODE=0..N-1 and RUN_DIR, a folder that all
# share. DRY_RUN=1 prints the command.
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

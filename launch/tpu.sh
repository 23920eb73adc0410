#!/usr/bin/env bash
# Runs dinado on a TPU slice with any number of hosts (Cloud TPU VMs).
#
#   launch/tpu.sh create   requests the TPU through the queue (SPOT=1: preemptible, cheaper)
#   launch/tpu.sh status   the state of the TPU; once ACTIVE, also of each worker
#   launch/tpu.sh setup    syncs, and installs what a worker needs; repeat it after a reboot
#   launch/tpu.sh sync     sends the committed code (DIRTY=1: uncommitted changes too)
#   launch/tpu.sh run CONFIG section.key=value ...    `dinado run` on all workers, detached
#   launch/tpu.sh logs     follows the log of worker 0 (WORKER=N: of worker N)
#   launch/tpu.sh stop     the run saves and exits (KILL=1: exits without saving)
#   launch/tpu.sh delete   deletes the TPU (YES=1: without asking)
#
# Environment: TPU_NAME, ZONE, PROJECT; for create also TPU_TYPE and RUNTIME; BUCKET or RUN_DIR
# (launch/README.md). DRY_RUN=1 prints the commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/lib.sh

verb=${1:-}
[ $# -eq 0 ] || shift
need TPU_NAME 'the name of the TPU'
need ZONE 'its zone, for example us-west4-a'
need PROJECT 'the Google Cloud project'
where=(--project="$PROJECT" --zone="$ZONE")

# on WORKER COMMAND: runs COMMAND in the code's folder on that worker, or on all.
on() {
  perform gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker="$1" \
    --command="cd dinado/code && $2"
}

# Logs are on the worker's own disk: a mounted bucket shows a file only once it is closed.
worker='env LOG_DIR=../logs launch/worker.sh'

run_dir() {
  [ -n "${RUN_DIR:-}" ] || [ -z "${BUCKET:-}" ] || RUN_DIR=/mnt/dinado/runs
  need RUN_DIR 'a folder that all workers share, or a BUCKET to mount'
}

sync() {
  local commit tree command
  commit=$(git rev-parse HEAD)
  tree=$commit
  if [ -n "$(git status --porcelain)" ]; then
    [ "${DIRTY:-}" = 1 ] || fail 'uncommitted changes: commit them, or send them with DIRTY=1'
    commit="$commit with changes"
    tree=$(
      GIT_INDEX_FILE=$(mktemp -u)
      export GIT_INDEX_FILE
      git add --all
      git write-tree
      rm "$GIT_INDEX_FILE"
    )
  fi
  mkdir -p build
  perform git archive --format=tar.gz --output=build/code.tar.gz "$tree"
  perform gcloud compute tpus tpu-vm scp build/code.tar.gz "$TPU_NAME:dinado-code.tar.gz" \
    "${where[@]}" --worker=all
  command='mkdir -p dinado && cd dinado && rm -rf code && mkdir code'
  command="$command && tar -xzf ../dinado-code.tar.gz -C code"
  perform gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker=all \
    --command="$command && echo '$commit' >code/COMMIT"
}

case $verb in
  create)
    need TPU_TYPE 'for example v5litepod-16'
    need RUNTIME "the type's software version, for example v2-alpha-tpuv5-lite"
    spot=()
    [ "${SPOT:-}" != 1 ] || spot=(--spot)
    perform gcloud compute tpus queued-resources create "$TPU_NAME" "${where[@]}" \
      --node-id="$TPU_NAME" --accelerator-type="$TPU_TYPE" --runtime-version="$RUNTIME" \
      ${spot[@]+"${spot[@]}"}
    ;;
  status)
    state=$(perform gcloud compute tpus queued-resources describe "$TPU_NAME" "${where[@]}" \
      '--format=value(state.state)')
    printf '%s\n' "$state"
    if [ "$state" = ACTIVE ] || [ "${DRY_RUN:-}" = 1 ]; then on all "$worker status"; fi
    ;;
  setup)
    run_dir
    sync
    on all "$(quoted env "BUCKET=${BUCKET:-}" launch/tpu_setup.sh)"
    ;;
  sync) sync ;;
  run)
    [ $# -ge 1 ] || fail 'a config is missing: launch/tpu.sh run CONFIG section.key=value ...'
    run_dir
    settings=("RUN_DIR=$RUN_DIR" DINADO=../venv/bin/dinado DINADO_DISTRIBUTED=auto)
    for name in DINADO_DISTRIBUTED_TIMEOUT MAX_RESTARTS RESTART_PAUSE JAX_COMPILATION_CACHE_DIR \
      HF_HOME HF_HUB_OFFLINE XLA_FLAGS LIBTPU_INIT_ARGS; do
      [ -z "${!name:-}" ] || settings+=("$name=${!name}")
    done
    # On all workers: a single one would wait for the others.
    on all "$(quoted env "${settings[@]}" LOG_DIR=../logs launch/worker.sh start "$@")"
    ;;
  logs) on "${WORKER:-0}" "$worker logs" ;;
  stop)
    if [ "${KILL:-}" = 1 ]; then on all "$worker kill"; else on all "$worker stop"; fi
    ;;
  delete)
    if [ "${YES:-}" != 1 ] && [ "${DRY_RUN:-}" != 1 ]; then
      echo "Deleting $TPU_NAME deletes all data on its disks; a run not stopped first loses its last steps."
      printf 'Delete it? [y/N] '
      read -r answer || true
      [ "${answer:-}" = y ] || fail "$TPU_NAME is kept and continues to be billed"
    fi
    perform gcloud compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --force --quiet
    ;;
  *) fail 'give one of create, status, setup, sync, run, logs, stop, delete' ;;
esac

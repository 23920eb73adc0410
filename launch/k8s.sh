#!/usr/bin/env bash
# Runs dinado on Kubernetes, as a JobSet with one pod per host.
#
#   launch/k8s.sh apply CONFIG section.key=value ...    starts or continues the run
#   launch/k8s.sh status
#   launch/k8s.sh logs     follows the log of pod 0 (WORKER=N: of pod N)
#   launch/k8s.sh delete   the run saves and exits; its folder is kept
#
# Environment: NAME; for apply also DEVICE, IMAGE, CLAIM, HOSTS and the variables of the device
# (launch/README.md). DRY_RUN=1 prints the commands.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"

# Prints its arguments as a YAML list. Dollars are doubled, as Kubernetes would expand $(WORD).
yaml_list() {
  local word list=''
  for word in "$@"; do
    case $word in *[[:cntrl:]]*) fail 'no line breaks or tabs in the arguments of dinado' ;; esac
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    word=${word//\$/\$\$}
    list="${list:+$list, }\"$word\""
  done
  printf '[%s]' "$list"
}

# filled FILE NAME...: prints the file with each ${NAME} replaced by the variable's value.
filled() {
  local text name value
  text=$(<"$1")
  shift
  for name in "$@"; do
    value=${!name}
    text=${text//"\${$name}"/"$value"}
  done
  printf '%s\n' "$text"
}

verb=${1:-}
[ $# -eq 0 ] || shift
need NAME 'the name of the JobSet'
pods="jobset.sigs.k8s.io/jobset-name=$NAME"
case $verb in
  apply)
    [ $# -ge 1 ] || fail 'a config is missing: launch/k8s.sh apply CONFIG section.key=value ...'
    need IMAGE 'a container image with dinado_jax (launch/k8s/Dockerfile)'
    need CLAIM 'a persistent volume claim that many pods can write to (ReadWriteMany)'
    need HOSTS 'the number of hosts'
    names=(NAME IMAGE CLAIM HOSTS MAX_RESTARTS ARGS)
    case ${DEVICE:-} in
      tpu)
        need TPU_ACCELERATOR 'for example tpu-v5-lite-podslice'
        need TPU_TOPOLOGY 'for example 4x4'
        CHIPS=${CHIPS:-4}
        names+=(TPU_ACCELERATOR TPU_TOPOLOGY CHIPS)
        ;;
      gpu)
        GPUS=${GPUS:-8}
        names+=(GPUS)
        ;;
      *) fail 'set DEVICE in the environment: tpu or gpu' ;;
    esac
    MAX_RESTARTS=${MAX_RESTARTS:-20}
    # shellcheck disable=SC2034 # read by name
    ARGS=$(yaml_list "$@")
    manifest=$(filled "$here/k8s/$DEVICE.yaml" "${names[@]}")
    if [ "${DRY_RUN:-}" = 1 ]; then
      printf "kubectl apply --filename=- <<'END'\n%s\nEND\n" "$manifest"
    else
      kubectl apply --filename=- <<<"$manifest"
    fi
    ;;
  status)
    perform kubectl get jobset "$NAME"
    perform kubectl get pods --output=wide --selector="$pods"
    ;;
  logs)
    perform kubectl logs --follow --tail=100 \
      --selector="$pods,batch.kubernetes.io/job-completion-index=${WORKER:-0}"
    ;;
  delete) perform kubectl delete jobset "$NAME" ;;
  *) fail 'give one of apply, status, logs, delete' ;;
esac

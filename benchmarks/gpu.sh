#!/usr/bin/env bash
# Measures one GPU: training, decoding, beam search and rollouts compared with PyTorch, compilation, and
# a profile. Run it from the root of the repository.
#
#     benchmarks/gpu.sh OUT [SIZE] [DTYPE] [REPEATS] [SECTION ..]
#
# Default: gpt2-large bfloat16 7, and all sections: train decode rollout beam vocab compile scan profile.
# Writes JSON lines, tables and a profile to OUT. A trial run on a CPU:
#     BATCHES="2 4" LENGTH=24 benchmarks/gpu.sh OUT tiny float32 1
set -euo pipefail
out=${1:?give a folder for the results}
size=${2:-gpt2-large} dtype=${3:-bfloat16} repeats=${4:-7} length=${LENGTH:-64}
sections=" ${*:5} "
[[ $sections != "  " ]] || sections=" train decode rollout beam vocab compile scan profile "
batches=(${BATCHES:-32 256})
largest=${batches[-1]}
mkdir -p "$out"
peer=--peer=benchmarks/torch_peer.py # one word, so that `bench` can replace it
common=(--size "$size" --dtype "$dtype" --length "$length" --repeats "$repeats")

wanted() { [[ $sections == *" $1 "* ]]; }

bench() { # NAME ARGUMENTS of dinado bench; if that fails, runs again without the peer
    local name=${size}_$1
    shift
    echo "== $name: dinado bench $*" | tee -a "$out/tables.txt"
    python -m dinado_jax bench "$@" >"$out/$name.jsonl" 2>"$out/$name.log" ||
        python -m dinado_jax bench "${@/#$peer/--repeats=$repeats}" >"$out/$name.jsonl" 2>>"$out/$name.log" ||
        echo "failed: $name"
    tail -n 6 "$out/$name.log" | cut -c 1-400 | tee -a "$out/tables.txt"
}

for batch in "${batches[@]}"; do # compare each program at its best batch
    for variant in ${VARIANTS:-merge nado}; do
        ! wanted train || bench "train_${variant}_$batch" train --variant "$variant" --batch "$batch" "$peer" "${common[@]}"
    done
    for variant in ${VARIANTS:-base merge nado}; do
        ! wanted decode || bench "decode_${variant}_$batch" decode --variant "$variant" --batch "$batch" "$peer" "${common[@]}"
    done
done
if wanted rollout; then
    bench rollout rollout --variant merge --batch "$largest" --samples 2 "$peer" "${common[@]}"
    bench rollout_refilled rollout --variant merge --batch "$largest" --samples 2 --queues 8 --ends 0.05 "${common[@]}"
fi
if wanted beam; then
    bench beam beam --variant merge --batch 8 --beams 20 "$peer" "${common[@]}"
    bench decode_top_k decode --variant nado --batch "$largest" --top-k 50 --top-p 0.9 "${common[@]}"
fi
if wanted vocab; then
    bench vocab vocab --batch 64 "${common[@]}"
    bench vocab_trained vocab --batch 64 --trained "${common[@]}"
fi
if wanted compile; then
    for run in first second; do # the second run reads the first one's compiled programs
        JAX_COMPILATION_CACHE_DIR="$out/compiled" bench "compile_$run" decode --variant merge --batch 8 "${common[@]}"
    done
fi
! wanted scan || python benchmarks/scan_layers.py --size "$size" --repeats "$repeats" | tee "$out/scan_layers.jsonl"
! wanted profile || python benchmarks/profile_step.py --size "$size" --dtype "$dtype" --batch "$largest" \
    --length "$length" --out "$out/profile"

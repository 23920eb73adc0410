#!/usr/bin/env bash
# Measures one GPU: training, decoding, beam search and rollouts compared with PyTorch, compilation, and
# a profile. Run it from the root of the repository.
#
#     benchmarks/gpu.sh OUT [SIZE] [DTYPE] [REPEATS]        default: gpt2-large bfloat16 7
#
# Writes JSON lines, tables and a profile to OUT. A trial run on a CPU:
#     BATCHES="2 4" DECODE_BATCHES=2 LENGTH=24 benchmarks/gpu.sh OUT tiny float32 1
set -euo pipefail
out=${1:?give a folder for the results}
size=${2:-gpt2-large} dtype=${3:-bfloat16} repeats=${4:-7} length=${LENGTH:-64}
mkdir -p "$out"
peer=--peer=benchmarks/torch_peer.py # one word, so that `bench` can replace it
common=(--size "$size" --dtype "$dtype" --length "$length" --repeats "$repeats")

bench() { # NAME ARGUMENTS of dinado bench; if that fails, runs again without the peer
    local name=$1
    shift
    echo "== $name: dinado bench $*" | tee -a "$out/tables.txt"
    python -m dinado_jax bench "$@" >"$out/$name.jsonl" 2>"$out/$name.log" ||
        python -m dinado_jax bench "${@/#$peer/--repeats=$repeats}" >"$out/$name.jsonl" 2>>"$out/$name.log" ||
        echo "failed: $name"
    tail -n 6 "$out/$name.log" | tee -a "$out/tables.txt"
}

for variant in merge nado; do
    for batch in ${BATCHES:-32 64 128 256}; do # compare each program at its best batch
        bench "train_${variant}_$batch" train --variant "$variant" --batch "$batch" "$peer" "${common[@]}"
    done
done
for variant in base merge nado; do
    for batch in ${DECODE_BATCHES:-32 256}; do
        bench "decode_${variant}_$batch" decode --variant "$variant" --batch "$batch" "$peer" "${common[@]}"
    done
done
last=${DECODE_BATCHES:-32 256}
last=${last##* }
bench decode_top_k decode --variant nado --batch "$last" --top-k 50 --top-p 0.9 "${common[@]}"
bench rollout rollout --variant merge --batch "$last" --samples 2 "$peer" "${common[@]}"
bench beam beam --variant merge --batch 8 --beams 20 "$peer" "${common[@]}"
bench vocab vocab --batch 64 "${common[@]}"
bench vocab_trained vocab --batch 64 --trained "${common[@]}"
for run in first second; do # the second run reads the first one's compiled programs
    JAX_COMPILATION_CACHE_DIR="$out/compiled" bench "compile_$run" decode --variant merge --batch 8 "${common[@]}"
done
python benchmarks/scan_layers.py --size "$size" --repeats "$repeats" | tee "$out/scan_layers.jsonl"
python benchmarks/profile_step.py --size "$size" --dtype "$dtype" --batch "${last}" --length "$length" --out "$out/profile"

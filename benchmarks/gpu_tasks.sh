#!/usr/bin/env bash
# Trains and measures on one GPU, at sizes for it, what docs/results.md and docs/neighbours.md have from CPUs.
# Run it from the root of the repository.
#
#     benchmarks/gpu_tasks.sh DATA OUT [TASK ..]
#
# Tasks, all by default, side by side: fisher cocoa (SmolLM2, translations beside FUDGE), rollouts (rollouts per
# prompt, by kind), denoising, recurrence; then, one after another, reading (few-shot, long text) and adapters.
# DATA has fisher/ cocoa/ commongen/ captions/ (as docs/data.md says), pairs.tsv (English and German), polite.jsonl and
# formal.jsonl (text and label), sst2.jsonl, novels.txt, tales.txt and model.gguf (SmolLM2-135M). What is finished
# in OUT is not made again. A trial run on a CPU: TRIAL=1 benchmarks/gpu_tasks.sh DATA OUT
set -uo pipefail
data=$(realpath "${1:?give the folder of the data}")
mkdir -p "${2:?give a folder for the results}"
out=$(realpath "$2") code=$PWD
wanted=("${@:3}")
[[ ${#wanted[@]} -gt 0 ]] || wanted=(fisher cocoa rollouts denoising recurrence reading adapters)
python=${PYTHON:-python}
export PYTHONPATH=$code:$code/benchmarks${PYTHONPATH:+:$PYTHONPATH} XLA_PYTHON_CLIENT_PREALLOCATE=false
# Programs are many and small here: compiling them with trials of every product would take longer than they run.
export XLA_FLAGS=${XLA_FLAGS:---xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}
[[ -z ${TRIAL:-} ]] || unset XLA_FLAGS

dinado() { "$python" -m dinado_jax "$@"; }
script() { "$python" "$code/benchmarks/$1.py" "${@:2}"; }
joined() { # PROCESS ..: whether all of them succeeded
    local process failed=0
    for process; do wait "$process" || failed=1; done
    return $failed
}
sized() { # FULL TRIAL
    [[ -z ${TRIAL:-} ]] && echo "$1" || echo "$2"
}
trial_control="train.batch=4 train.rounds=2 train.steps=2 train.warmup_direction=1 train.refresh_samples=4"
trial_control+=" rollout.batch=8 rollout.samples=2 rollout.max_new_tokens=8 decode.max_new_tokens=8 evaluate.prompts=4"

translation() { # NAME SOURCE TEXTS LABEL RULE TUNED CONTROLLED: judges, a control of runs/base, and a table
    dinado oracle train "$3" --label "$4" --tokenizer "$data/model.gguf" --out judges $(sized "" "--epochs 1") || return
    dinado run "$code/configs/formalmt_$1.toml" name=control task.source="$2" $6 sft.steps=0 \
        base.path=runs/base/sft/base rollout.oracle="classifier('judges/a') > 0.5" \
        evaluate.oracle=classifier:judges/b evaluate.samples=2 run.save_every=1000 $7 || return
    script formal_translation runs/control --judge judges/b --rule "$5" --target-rates 0 --strengths 1 1.5 2 3 4 \
        --fudge 0.5 1 2 --samples 2 $(sized "--prompts 300 --show 12" "--prompts 2 --show 2") >table.txt
}
tuned="sft.adapter=none sft.learning_rate=2e-4 run.save_every=100000"

fisher() {
    local sft control
    sft=$(sized "sft.steps=850 sft.batch=128 sft.warmup=50 sft.max_length=96 base.dtype=bfloat16" \
        "sft.steps=2 sft.batch=4 sft.warmup=1")
    control=$(sized "base.dtype=bfloat16 rollout.prompts=4000 rollout.batch=512 rollout.max_new_tokens=48 \
        train.batch=128 train.rounds=3 train.steps=300 train.refresh_prompts=4000 decode.batch=512 \
        decode.max_new_tokens=48 evaluate.prompts=500" "$trial_control rollout.prompts=8 train.refresh_prompts=8")
    dinado sft "$code/configs/formalmt_fisher.toml" name=base task.source="$data/fisher" \
        base.path="$data/model.gguf" $tuned $sft || return
    translation fisher "$data/fisher" "$data/polite.jsonl" polite at_most_12_words "" "$control"
}

cocoa() {
    local pairs sft control config="$code/configs/formalmt_cocoa.toml"
    pairs=$(sized "sft.pretrain_steps=1600 sft.batch=128 sft.warmup=50 base.dtype=bfloat16" \
        "sft.pretrain_steps=2 sft.batch=4 sft.warmup=1")
    sft=$(sized "sft.steps=64 sft.batch=32 sft.warmup=10 base.dtype=bfloat16" "sft.steps=2 sft.batch=4 sft.warmup=1")
    control=$(sized "base.dtype=bfloat16 rollout.prompts=360 rollout.samples=32 rollout.batch=512 \
        rollout.max_new_tokens=64 train.batch=64 train.rounds=3 train.steps=200 train.refresh_prompts=360 \
        train.refresh_samples=16 decode.batch=512 decode.max_new_tokens=64 evaluate.prompts=300" \
        "$trial_control rollout.prompts=8 train.refresh_prompts=8")
    dinado sft "$config" name=pairs task.source="$data/cocoa" base.path="$data/model.gguf" $tuned \
        sft.pretrain_path="$data/pairs.tsv" sft.steps=0 sft.max_length=40 $pairs || return
    dinado sft "$config" name=base task.source="$data/cocoa" base.path=runs/pairs/sft/base $tuned \
        sft.learning_rate=1e-4 sft.pretrain_steps=0 sft.max_length=128 $sft || return
    translation cocoa "$data/cocoa" "$data/formal.jsonl" formal formal_de sft.pretrain_steps=0 "$control"
}

rollouts() { # a process for each kind and reweighting, on one base
    local seed=4 prompts counts kind weighting folder cells failed=0
    local settings=(task.source="$data/commongen" sft.pretrain_path="$data/captions" train.objective=regression)
    prompts=$(sized 250 8) counts=$(sized "1 2 4 8 16" 1)
    settings+=($(sized "sft.pretrain_steps=2500 sft.steps=1000 evaluate.prompts=248 evaluate.samples=4 train.rounds=4 \
        train.steps=200 train.batch=64" "sft.pretrain_steps=2 sft.steps=2 base.n_embd=32 evaluate.prompts=8 \
        evaluate.samples=1 train.rounds=2 train.steps=2 rollout.batch=8 rollout.oracle=length<=30"))
    dinado sft "$code/configs/commongen_small.toml" --out base "${settings[@]}" seed=$seed --quiet || return
    for weighting in importance none "not clipped"; do
        cells=()
        for kind in merge soft nado hard; do
            folder=${kind}_${weighting/ /_}
            mkdir -p "$folder/seed$seed"
            [[ -e $folder/seed$seed/base ]] || cp -r base "$folder/seed$seed/base"
            script sample_efficiency "$code/configs/commongen_small.toml" --out "$folder" --seeds $seed \
                --prompts "$prompts" --kinds "$kind" --weightings "$weighting" --per-prompt $counts \
                --settings "${settings[@]}" >"$folder/log.txt" 2>&1 &
            cells+=($!)
        done
        joined "${cells[@]}" || failed=1 # four at once
    done
    return $failed
}

denoising() { # rates are chosen on dev with seed 0, denoisers measured with others
    local sizes rate seed writers=()
    sizes=$(sized "--width 256 --layers 4 --batch 256 --warmup 300 --pretrain-steps 3000 --pretrain-rate 1e-3 \
        --causal-steps 1200 --causal-rate 1e-3 --steps 8000" "--width 32 --layers 1 --heads 2 --vocabulary 512 \
        --batch 32 --warmup 1 --pretrain-steps 2 --causal-steps 2 --steps 2 --longest 3 --held-out 20")
    sizes+=" --pretrain-on pairs --mask-rate 0.5 --distilled"
    for rate in 3e-4 1e-3; do
        script denoising "$data/pairs.tsv" --out "dev_$rate" --seeds 0 --dev --measure bleu --kinds masked \
            --rate $rate $sizes >"dev_$rate.log" 2>&1 || return
    done
    rate=$(grep -H '"kind": "masked"' dev_*/records.jsonl | sed 's/dev_\([^/]*\).*"bleu": \([0-9.]*\).*/\2 \1/' |
        sort -n | tail -n 1 | cut -d ' ' -f 2)
    for seed in 1 2 3; do
        script denoising "$data/pairs.tsv" --out "seed_$seed" --seeds $seed --measure bleu --rate "$rate" $sizes \
            >"seed_$seed.log" 2>&1 &
        writers+=($!)
    done
    joined "${writers[@]}" || return
    script denoising "$data/pairs.tsv" --out seed_1 --seeds 1 --measure speed --rate "$rate" $sizes
}

recurrence() {
    script recurrence "$data/novels.txt" --out novels.jsonl $(sized "--steps 2500 --rate 1e-3 --width 256 --layers 6 \
        --vocabulary 4096 --rows 32 --evaluated 200" "--steps 2 --width 32 --layers 2 --rows 2 --evaluated 1 --seeds 0")
}

reading() {
    local few text
    few=$(sized "--texts 200 --tuning-draws 3 --batch 100 --step-sizes 0.0003 0.001 0.003 0.01" \
        "--texts 2 --tuning-draws 1 --draws 2 --shots 1 --step-sizes 0.001")
    text=$(sized "--characters 100000 --window 512 --batch 16 --step-sizes 0.003 0.01 0.03 0.1" \
        "--characters 2000 --window 64 --batch 1 --step-sizes 0.01")
    script hidden_state_optimisation few-shot "$data/model.gguf" "$data/sst2.jsonl" --out sst2.jsonl \
        --words 0=negative 1=positive $few
    script hidden_state_optimisation text "$data/model.gguf" "$data/novels.txt" --out text.jsonl $text
}

adapters() { # a LoRA of rank 1 and a prefix of 26 positions train as many numbers
    local way
    for way in "lora 2e-3" "prefix 5e-3" "prefix 2e-2"; do
        set -- $way
        script adapters "$code/configs/commongen_smollm2.toml" --base "$data/model.gguf" --out "$1_$2" --ways "$1" \
            --unrelated "$data/tales.txt" --prompts "$(sized 992 4)" --settings task.source="$data/commongen" \
            sft.learning_rate="$2" sft.rank=1 sft.positions=26 run.save_every=100000 \
            $(sized "sft.steps=800 sft.batch=64 base.dtype=bfloat16" "sft.steps=2 sft.batch=4 sft.warmup=1")
    done
}

run() { # TASK in a folder of its own
    mkdir -p "$out/$1" && cd "$out/$1" || return
    SECONDS=0
    if "$1" >log.txt 2>&1; then echo "$1: done in $SECONDS s"; else echo "$1: failed, see $out/$1/log.txt"; fi
}
for task in fisher cocoa rollouts denoising recurrence; do
    [[ " ${wanted[*]} " != *" $task "* ]] || (run "$task") &
done
wait
for task in reading adapters; do
    [[ " ${wanted[*]} " != *" $task "* ]] || (run "$task")
done

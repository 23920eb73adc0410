#!/usr/bin/env bash
# Every `dinado bench` command and every script here once, at its smallest size: do they still run?
#
#     benchmarks/smoke.sh [FOLDER]        make bench-smoke; PYTHON=python by default
#
# Two at a time; the figures mean nothing. Output is left in FOLDER, a new one by default.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-$(mktemp -d)}
export OUT=$out PYTHON=${PYTHON:-python} PYTHONPATH=$PWD:$PWD/tests
export JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1
mkdir -p "$out"

run() { # name, command
    local name=$1 began=$SECONDS
    shift
    if "$@" >"$OUT/$name.out" 2>"$OUT/$name.err"; then
        echo "ok $name, $((SECONDS - began)) s"
    else
        echo "FAILED $name: $*"
        tail -n 20 "$OUT/$name.err"
        return 1
    fi
}
export -f run

labelled=$out/labelled.tsv
for i in $(seq 60); do printf 'a red dog %s\t1\na blue dog %s\t0\n' "$i" "$i"; done >"$labelled"
{
    for what in vocab train decode rollout beam; do
        prompt=()
        [[ $what == vocab ]] || prompt=(--prompt 2 --layers 1)
        echo "bench_$what $PYTHON -m dinado_jax bench $what --size tiny --batch 8 --length 4 --repeats 1 ${prompt[*]}"
    done
    demo="base.n_layer=1 base.n_embd=32 base.n_head=2 sft.steps=4 train.steps=4 train.rounds=1"
    demo+=" train.warmup_direction=0 rollout.prompts=40 evaluate.prompts=20"
    echo "oracle_suite $PYTHON benchmarks/oracle_suite.py --out $out/oracles --seeds 3 --oracles long_words --settings $demo"
    demo+=" rollout.oracle=support.tiny_run:even"
    echo "side_by_side $PYTHON benchmarks/side_by_side.py tests/support/tiny_run.toml --out $out/ways --variants blind"
    echo "toy_study $PYTHON benchmarks/toy_study.py --out $out/study --seeds 3 --recipes default --settings $demo"
    echo "sample_efficiency $PYTHON benchmarks/sample_efficiency.py tests/support/tiny_run.toml --out $out/efficiency --per-prompt 2 --kinds merge --weightings none --seeds 3"
    echo "scale $PYTHON benchmarks/scale.py configs/commongen_gpt2_large.toml --base gpt2 --target cpu --fsdp 2 --rows 1 --length 8 --depths 1 2"
    echo "draws $PYTHON benchmarks/draws.py --rows 100 --vocabularies 37"
    echo "exact_expected $PYTHON benchmarks/exact_expected.py --variants merge --seeds 20 --steps 10"
    echo "exact_study $PYTHON benchmarks/exact_study.py --out $out/study.jsonl --learners 'merge, matching' --techniques plain --rates 0.2 --budgets 64 --seeds 10 11"
    echo "exact_objectives $PYTHON benchmarks/exact_objectives.py --out $out/objectives.jsonl --worlds table --objectives ratio"
    echo "gradient_noise $PYTHON benchmarks/gradient_noise.py --worlds table --rows 4 --repeats 3"
    echo "from_layer $PYTHON benchmarks/from_layer.py --size tiny --rows 4 --length 8 --repeats 1"
    echo "prefix_cost $PYTHON benchmarks/prefix_cost.py --size tiny --rows 2 --length 4 --repeats 1"
    echo "scan_layers $PYTHON benchmarks/scan_layers.py --size tiny --rows 1 --length 4 --repeats 1"
    echo "profile_step $PYTHON benchmarks/profile_step.py --size tiny --batch 1 --length 18 --out $out/profile"
    echo "hmm_em $PYTHON benchmarks/hmm_cost.py em --states 8 --vocabulary 50 --batch 8 --length 4 --repeats 1"
    echo "hmm_guide $PYTHON benchmarks/hmm_cost.py guide --size tiny --rows 2 --length 4 --states 8 --keywords 1 --repeats 1"
    echo "particle_cost $PYTHON benchmarks/particle_cost.py --size tiny --particles 2 --length 4 --repeats 1"
    echo "state_cost $PYTHON benchmarks/state_cost.py --size tiny --rows 2 --length 4 --keywords 1 --repeats 1"
    pairs=$out/pairs
    mkdir -p "$pairs"
    for split in train dev; do
        for i in $(seq 40); do
            printf '{"concepts": ["dog", "run"], "scene": "a dog runs %s times"}\n' "$i"
        done >"$pairs/$split.jsonl"
    done
    for i in $(seq 40); do echo "a dog likes to run in park $i"; done >"$out/captions.txt"
    echo "register_texts $PYTHON benchmarks/register_texts.py $out/captions.txt $out/captions.txt --out $out/register.jsonl --each 4"
    echo "automata $PYTHON benchmarks/automata.py $out/captions.txt --count 100"
    tiny="vocab_size=300 n_positions=64 n_embd=16 n_layer=1 n_head=2"
    echo "guided_dropout $PYTHON benchmarks/guided_dropout.py $pairs $out/captions.txt --out $out/dropout --shares 1 --seeds 0 --dropouts guided --steps 2 --pretrain-steps 2 --size $tiny --settings sft.batch=8"
    echo "temperature $PYTHON benchmarks/temperature.py $labelled --test $labelled --seeds 1"
    echo "classifier_calibration $PYTHON benchmarks/classifier_calibration.py $labelled --test $labelled --epochs 1 --seeds 0"
    novels=$out/novels.txt
    for i in $(seq 11); do
        printf '<<<%s>>>\n' "$i"
        for j in $(seq 20); do printf 'a red dog %s saw a cat %s\n' "$i" "$j"; done
    done >"$novels"
    small="--seeds 0 --steps 2 --width 8 --layers 2 --heads 2 --vocabulary 300 --window 16 --rows 1 --windows 2"
    echo "recurrence $PYTHON benchmarks/recurrence.py $novels --out $out/recurrence.jsonl $small --held-out 1"
    {
        printf '1\t2\n'
        for i in $(seq 40); do printf 'a dog %s\tein Hund %s\n' "$i" "$i"; done
    } >"$out/sentences.tsv"
    parallel=$out/parallel
    mkdir -p "$parallel"
    for side in es en.0 en.1; do seq 20 | sed 's/$/ uno dos/' >"$parallel/train.$side"; done
    echo "short_lines $PYTHON benchmarks/short_lines.py $parallel $out/short --sources *.es --words 2 9"
    small="--seeds 0 --held-out 4 --layers 1 --width 8 --heads 2 --vocabulary 300 --batch 4"
    small+=" --pretrain-steps 2 --steps 2 --causal-steps 2 --lengths 1 --repeats 1"
    echo "formality_pairs $PYTHON benchmarks/formality_pairs.py $out/sentences.tsv --out $out/formality"
    echo "denoising $PYTHON benchmarks/denoising.py $out/sentences.tsv --out $out/denoising $small"
    echo "planted_bugs $PYTHON benchmarks/planted_bugs.py --only 0 --out $out/planted.jsonl"
} | xargs -P 2 -d '\n' -I{} bash -c 'run {}'
run demo_picture "$PYTHON" benchmarks/demo_picture.py "$out/study/seed3/default" "$out/demo.svg"
run compare_runs "$PYTHON" benchmarks/compare_runs.py "$out/bound.svg" "default=$out/study/seed3/default"
run decodings "$PYTHON" benchmarks/decodings.py "$out/study/seed3/default" --out "$out/decodings" --prompts 4 --samples 1 --ways base/sample control/particles2
run with_automata "$PYTHON" -m dinado_jax run tests/support/tiny_run.toml name=with_automata rollout.oracle="not contains('red')" control.state=true run.folder="$out"
run label_cost "$PYTHON" benchmarks/label_cost.py "$out/with_automata" --repeats 1
run hmm "$PYTHON" -m dinado_jax hmm train "$out/with_automata" --out "$out/hmm" --states 4 --samples 200 --epochs 1
run decodings_hmm "$PYTHON" benchmarks/decodings.py "$out/with_automata" --out "$out/decodings_hmm" --hmm "$out/hmm" --prompts 4 --samples 1 --ways masks/sample table/sample hmm/sample control+hmm/particles2
run prefix_auc "$PYTHON" benchmarks/prefix_auc.py "$out/study/seed3/default" --prompts 4
run prefix_reader "$PYTHON" benchmarks/prefix_reader.py "$out/study/seed3/default" --prompts 4 --steps 2 --guided 2
run length_beams "$PYTHON" benchmarks/length_beams.py "$out/study/seed3/default" --prompts 4 --beams 2 --lengths 3 5
base=$out/study/seed3/default/sft/base
run adapters "$PYTHON" benchmarks/adapters.py tests/support/tiny_run.toml --base "$base" --out "$out/adapters" --prompts 4 --settings sft.rank=1 sft.positions=2
run judges "$PYTHON" -m dinado_jax oracle train "$labelled" --tokenizer "$base" --epochs 1 --out "$out/judges"
run judged "$PYTHON" -m dinado_jax run tests/support/tiny_run.toml base.path="$base" sft.steps=0 run.folder="$out" rollout.oracle="classifier:$out/judges/a"
run formal_translation "$PYTHON" benchmarks/formal_translation.py "$out/tiny" --judge "$out/judges/b" --rule mentions_colour --strengths 1 --fudge 1 --prompts 4 --samples 1
for i in $(seq 40); do printf 'a red dog saw a blue dog .\n'; done >"$out/long.txt"
run reader "$PYTHON" -m dinado_jax sft tests/support/tiny_run.toml name=reader run.folder="$out" base.n_positions=160 sft.steps=2
reading=(--step-sizes 0.01 --characters 200 --chunk 4 --shots 1 --texts 4 --draws 2 --tuning-draws 1)
run reading_text "$PYTHON" benchmarks/hidden_state_optimisation.py text "$out/reader/sft/base" "$out/long.txt" --out "$out/text.jsonl" "${reading[@]}"
run reading_few_shot "$PYTHON" benchmarks/hidden_state_optimisation.py few-shot "$out/reader/sft/base" "$labelled" --words 0=blue 1=red --out "$out/few_shot.jsonl" "${reading[@]}"

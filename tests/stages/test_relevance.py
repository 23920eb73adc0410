"""A setting that has no effect in a run is rejected by name; every key of the schema has a rule."""

import dataclasses
from collections import Counter

import pytest

from dinado_jax.config.load import differences
from dinado_jax.config.schema import Config
from dinado_jax.errors import InputError
from dinado_jax.stages.relevance import ALWAYS, RULES
from dinado_jax.stages.settings import load_config as load
from dinado_jax.stages.settings import stored_config

COMMONGEN = "task.name=commongen task.source=data"
PROMPTS = "rollout.oracle=lexical task.name=prompts task.source=mine.txt"
JSONL = PROMPTS.replace("txt", "jsonl")
PAIRS = "rollout.oracle=lexical task.name=pairs task.source=mine.tsv"
TEXT = "rollout.oracle=lexical task.name=text task.source"
HARD, SOFT, NADO = "control.kind=hard", "control.kind=soft", "control.kind=nado"
PUBLISHED, CONSISTENCY = "train.objective=published", "train.objective=consistency"
UNANCHORED = [f"train.objective={o}" for o in ("ratio", "variance", "reinforce", "ppo")]
MOMENT = "target.moments=[{feature='mentions_colour',mean=0.5}]"
WARM = "train.steps=60"  # all of them are the warm-up's
COLD = "train.warmup_direction=0"
NO_SFT = "base.path=some sft.steps=0"

# A value of each key that has a rule; runs without a part for it; runs that have one.
CASES = {
    "task.source=data": ([""], [COMMONGEN]),
    "task.dev=other.txt": (["", COMMONGEN], [PROMPTS, PAIRS, f"{TEXT}=mine.txt"]),
    "task.test=other.txt": (["", COMMONGEN], [PROMPTS]),
    "task.held_out=0.1": (["", COMMONGEN, f"{PROMPTS} task.dev=dev.txt"], [PROMPTS]),
    "task.languages=en-es": (["", COMMONGEN], ["task.name=cocoa task.source=some"]),
    "task.field=text": (
        ["", COMMONGEN, PROMPTS, f"{TEXT}=mine.jsonl"],
        [JSONL, f"{JSONL}.gz", PAIRS, f"{PROMPTS} task.test=other.csv"],
    ),
    "task.target_field=answer": (["", COMMONGEN, JSONL], [PAIRS]),
    "task.text_field=body": (
        ["", COMMONGEN, PAIRS, f"{TEXT}=mine.txt"],
        [f"{TEXT}=mine.jsonl", f"{TEXT}=owner/name:subset"],
    ),
    "task.document=paragraph": (
        ["", PAIRS, f"{TEXT}=mine.jsonl", f"{TEXT}=owner/name"],
        [f"{TEXT}=mine.txt", f"{TEXT}=mine.jsonl task.dev=dev.txt"],
    ),
    "task.train_examples=9": ([COMMONGEN], [""]),
    "base.vocab_size=300": (["base.path=some"], [""]),
    "base.n_positions=32": (["base.path=some"], [""]),
    "base.n_embd=32": (["base.path=some"], [""]),
    "base.n_layer=3": (["base.path=some"], [""]),
    "base.n_head=2": (["base.path=some"], [""]),
    "sft.batch=32": ([NO_SFT], ["", f"{NO_SFT} sft.pretrain_steps=1 sft.pretrain_path=text"]),
    "sft.accumulate=2": ([NO_SFT], [""]),
    "sft.learning_rate=0.1": ([NO_SFT], [""]),
    "train.state_learning_rate=0.1": ([""], ["control.state=true"]),
    "sft.warmup=5": ([NO_SFT], [""]),
    "sft.decay=constant": ([NO_SFT], [""]),
    "sft.weight_decay=0.1": ([NO_SFT], [""]),
    "sft.beta2=0.9": ([NO_SFT], [""]),
    "sft.clip=2": ([NO_SFT], [""]),
    "sft.max_length=20": ([NO_SFT], [""]),
    "sft.adapter=prompt": ([NO_SFT], ["", f"{NO_SFT} sft.pretrain_steps=1 sft.pretrain_path=text"]),
    "sft.rank=2": (["", "sft.adapter=prefix", f"{NO_SFT} sft.adapter=lora"], ["sft.adapter=lora"]),
    "sft.positions=2": (
        ["", "sft.adapter=lora", f"{NO_SFT} sft.adapter=prompt"],
        ["sft.adapter=prefix", "sft.adapter=prompt"],
    ),
    "sft.shift=true": (
        ["", "sft.adapter=lora", f"{NO_SFT} sft.adapter=prompt"],
        ["sft.adapter=prefix", "sft.adapter=prompt"],
    ),
    "delta.shift=true": (
        ["", f"{NADO} delta.kind=prefix", f"{SOFT} delta.kind=prompt"],
        ["delta.kind=prefix", f"{SOFT} control.trunk=low_rank delta.kind=prompt"],
    ),
    "delta.kind=prefix": ([NADO, SOFT], ["", f"{SOFT} control.trunk=low_rank", HARD]),
    "delta.positions=3": (
        ["", f"{NADO} delta.kind=prefix", f"{SOFT} delta.kind=prompt"],
        ["delta.kind=prefix", f"{SOFT} control.trunk=low_rank delta.kind=prompt"],
    ),
    # The tokenizer of a new model is trained on it even where the model is not.
    "sft.pretrain_path=text": (
        ["base.path=some", f"{NO_SFT} sft.dropout=guided", "base.path=some sft.dropout=uniform"],
        ["", "base.path=some sft.pretrain_steps=2", "base.path=some sft.dropout=guided"],
    ),
    "sft.dropout=uniform": (
        [NO_SFT, f"{NO_SFT} sft.pretrain_steps=1 sft.pretrain_path=text"],
        ["", "base.path=some"],
    ),
    "sft.dropout_rate=0.2": (
        ["", f"{NO_SFT} sft.dropout=uniform"],
        [f"base.path=some sft.dropout={kind}" for kind in ("uniform", "gaussian", "guided")],
    ),
    "delta.rank=3": (
        [NADO, SOFT, f"{SOFT} control.trunk=copy", "delta.low_rank=[]", "delta.full=.*"],
        ["", f"{SOFT} control.trunk=low_rank", HARD],
    ),
    "delta.alpha=3": ([NADO, f"{HARD} control.direction=nado", "delta.low_rank=[]"], [""]),
    "delta.low_rank=[]": ([NADO, SOFT], ["", "delta.full=.*"]),
    "delta.full=.*": ([NADO, SOFT], ["", f"{SOFT} control.trunk=low_rank"]),
    "delta.from_layer=1": (
        [NADO, SOFT, f"{SOFT} control.trunk=copy", f"{HARD} control.direction=nado"],
        ["", HARD, f"{SOFT} control.trunk=low_rank"],
    ),
    "control.direction=soft": (["", SOFT, NADO], [HARD]),
    "control.form=projected": (["", SOFT, NADO], [HARD]),
    "control.trunk=copy": (["", NADO, HARD], [SOFT, f"{HARD} control.direction=soft"]),
    "control.layers=2": (
        ["", HARD, f"{SOFT} control.trunk=copy", f"{SOFT} control.trunk=low_rank"],
        [SOFT, NADO, f"{HARD} control.direction=nado"],
    ),
    "control.norm=trunk": ([NADO], ["", SOFT, HARD, f"{HARD} control.direction=nado"]),
    "control.norm_layers=3": (["", f"{NADO} control.layers=1"], ["control.norm=trunk"]),
    "control.norm_bias=zero": ([NADO], ["", SOFT, HARD, f"{HARD} control.direction=nado"]),
    "rollout.temperature=0.5": (["rollout.top_k=1"], ["", "rollout.top_k=2"]),
    "rollout.top_k=5": (["rollout.temperature=0", "base.vocab_size=300 rollout.top_k=300"], [""]),
    "rollout.top_p=0.5": (["rollout.temperature=0", "rollout.top_k=1"], ["", "rollout.top_k=2"]),
    "decode.temperature=0.5": (["decode.top_k=1"], [""]),
    "decode.top_k=5": (["decode.temperature=0"], [""]),
    "decode.top_p=0.5": (["decode.temperature=0", "decode.top_k=1"], [""]),
    "decode.hmm=some": ([""], ["decode.guarantee=true"]),
    "decode.hmm_head=true": ([""], ["decode.guarantee=true decode.hmm=some"]),
    "decode.target_rate=0.5": (["decode.strength=0", MOMENT], ["", "decode.strength=2"]),
    "train.objective=matching": ([WARM], ["", COLD]),
    "train.refresh_prompts=9": (
        ["train.rounds=1"],
        ["", "train.rounds=1 control.state=true train.table_rounds=1"],
    ),
    "train.refresh_samples=9": (["train.rounds=1"], [""]),
    "train.mixture=0.5": (["train.rounds=1"], [""]),
    "train.roll_out=0.5": (["train.rounds=1"], [""]),
    "train.margin=3": (
        [
            WARM,
            PUBLISHED,
            *(f"train.objective={o}" for o in ("matching", "contrastive", "prefixes")),
        ],
        ["", HARD, CONSISTENCY, "train.objective=reinforce", "train.objective=ppo"],
    ),
    "train.anchor=0.1": ([WARM, PUBLISHED, *UNANCHORED], ["", HARD, CONSISTENCY]),
    "train.prefix_bound=0.1": (["", f"control.state=true {WARM}"], ["control.state=true"]),
    "train.table_rounds=2": ([""], ["control.state=true"]),
    "train.particles=8": (
        ["", f"control.state=true {WARM}", f"control.state=true {PUBLISHED}"],
        ["control.state=true", "control.state=true train.objective=matching"],
    ),
    "train.bound=0.1": ([WARM, PUBLISHED, *UNANCHORED], ["", HARD, CONSISTENCY]),
    "train.bellman=0.5": (
        [HARD, WARM, f"{HARD} {PUBLISHED}", "train.bellman_start=900"],
        ["", PUBLISHED, NADO, "train.objective=prefixes", f"{HARD} {CONSISTENCY}"],
    ),
    "train.bellman_start=300": (
        [HARD, WARM, "train.bellman=0", "train.warmup_direction=300"],
        ["", PUBLISHED, f"{HARD} {CONSISTENCY}"],
    ),
    "train.weights=none": (
        [f"{PUBLISHED} {COLD}", f"{SOFT} {PUBLISHED} {COLD}", f"{HARD} {COLD} train.anchor=0"],
        [
            *("", HARD, COLD, WARM, f"{NADO} {PUBLISHED} {COLD}", f"{HARD} {PUBLISHED} {COLD}"),
            *(f"{HARD} {COLD} train.detach=false", f"{HARD} {COLD} train.objective=ratio"),
        ],
    ),
    "train.weight_clip=0.5": (
        [
            *("train.weights=none", f"{PUBLISHED} {COLD}", f"{NADO} {PUBLISHED} {COLD}"),
            *(f"{COLD} train.objective=prefixes", f"{COLD} train.anchor=0"),
        ],
        ["", PUBLISHED, f"{COLD} train.objective=matching"],
    ),
    "train.reference_weight=2": (
        ["", f"{PUBLISHED} {COLD} rollout.references=true"],
        ["rollout.references=true", f"{PUBLISHED} rollout.references=true"],
    ),
    "train.balance=false": ([PUBLISHED, CONSISTENCY, WARM], ["", HARD, "train.objective=prefixes"]),
    "train.detach=false": (
        [PUBLISHED, CONSISTENCY, WARM, NADO, "train.objective=prefixes"],
        ["", HARD, f"{HARD} control.direction=nado", "train.objective=ratio"],
    ),
    "train.base_states=float32": (
        [WARM, f"{HARD} {WARM}"],
        [
            *("", f"{SOFT} {WARM}", f"{HARD} control.form=projected {WARM}", PUBLISHED),
            f"delta.from_layer=1 {WARM}",
        ],
    ),
    "evaluate.split=dev": (["evaluate.prompt_file=file"], [""]),
    "evaluate.prompts=9": (["evaluate.prompt_file=file"], [""]),
    "evaluate.strengths=[0.3]": ([MOMENT, "decode.particles=4"], ["", "decode.reject=0.1"]),
}
IDLE = [(given, run) for given, (idle, _) in CASES.items() for run in idle]
PLAYS = [(given, run) for given, (_, plays) in CASES.items() for run in plays]


def test_every_key_is_named_once():
    sections = dataclasses.asdict(Config())
    keys = [
        f"{name}.{inner}" if isinstance(value, dict) else name
        for name, value in sections.items()
        for inner in (value if isinstance(value, dict) else [""])
    ]
    ruled = [key for rule in RULES for key in rule.keys.split()]
    assert Counter(ALWAYS.split() + ruled) == Counter(keys)
    assert {given.partition("=")[0] for given in CASES} == set(ruled)


def overrides(given, run):
    """The value first, unless the run itself gives another."""
    key = given.partition("=")[0]
    run = run.split()
    return run if any(text.startswith(f"{key}=") for text in run) else [given, *run]


@pytest.mark.parametrize("given, run", IDLE)
def test_what_plays_no_part_is_refused_by_name(given, run):
    with pytest.raises(InputError) as caught:
        load(None, overrides(given, run))
    said, key = str(caught.value), given.partition("=")[0]
    assert said.startswith(f"{key} = ") and "in the command line has no effect" in said
    assert "\n" not in said and said.endswith(": leave it out")


@pytest.mark.parametrize("given, run", PLAYS)
def test_what_plays_a_part_is_taken(given, run):
    key = given.partition("=")[0]
    assert any(
        line.startswith(f"{key} = ") for line in differences(load(None, [given, *run.split()]))
    )


def written(tmp_path, text):
    path = tmp_path / "some.toml"
    path.write_text(text)
    return path


def test_a_file_is_read_alike_and_named(tmp_path):
    path = written(tmp_path, "[evaluate]\nprompt_file = 'x'\nprompts = 3\n")
    with pytest.raises(InputError, match=rf"^evaluate.prompts = 3 in {path} has no effect"):
        load(path)


def test_defaults_may_be_written_down(tmp_path):
    path = written(tmp_path, "control.kind = 'nado'\ntask.source = ''\ndelta.rank = 16\n")
    assert load(path, ["train.margin=6", "train.objective=ratio"]).control.kind == "nado"


def test_overrides_may_take_the_part_of_a_file_s_value_or_give_it(tmp_path):
    path = written(tmp_path, "base.n_embd = 128\nsft.pretrain_path = 'x'\ntrain.margin = 3\n")
    assert load(path, ["base.path=some", "train.objective=ratio"]).train.margin == 3
    with pytest.raises(InputError, match=r"^base.n_embd = 32 in the command line has no effect"):
        load(path, ["base.path=some", "base.n_embd=32"])
    path = written(tmp_path, "control.direction = 'soft'\n")
    assert load(path, ["control.kind=hard"]).control.direction == "soft"


def test_stored_configurations_load_whatever_they_hold():
    assert (
        stored_config({"task": {"source": "x"}, "train": {"rounds": 1, "mixture": 0.5}}) != Config()
    )

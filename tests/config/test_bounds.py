"""Every number and choice of the schema: the last value taken and the first refused, at both ends.

The tables are written out here, not read from the checks.
"""

import re

import pytest
from support import tiny_run

from dinado_jax.config.schema import Config, flatten
from dinado_jax.errors import InputError
from dinado_jax.stages.settings import stored_config

TINY = 1e-9
# (the least taken, the first refused below it): by keys.
LEAST = [
    (1, 0, """
        task.train_examples base.vocab_size base.n_positions base.n_embd base.n_layer base.n_head
        sft.batch sft.accumulate sft.max_length delta.rank control.layers
        rollout.prompts rollout.samples rollout.max_new_tokens rollout.batch
        train.steps train.batch train.accumulate train.rounds
        train.refresh_prompts train.refresh_samples decode.max_new_tokens decode.batch
        evaluate.prompts evaluate.samples parallel.fsdp run.log_every run.save_every
    """),
    (0, -1, """
        seed sft.steps sft.pretrain_steps sft.warmup train.warmup train.warmup_direction
        train.bellman_start rollout.top_k decode.top_k parallel.devices
    """),
    (0.0, -TINY, """
        sft.learning_rate sft.weight_decay sft.clip sft.beta2
        train.learning_rate train.weight_decay train.clip train.beta2
        train.reference_weight train.bellman train.mixture
        rollout.temperature decode.temperature
        decode.strength decode.target_rate decode.reject
    """),
    (TINY, 0.0, "train.margin train.weight_clip rollout.top_p decode.top_p"),
    (-1e6, -2e6, "delta.alpha"),
]  # fmt: skip
# (the largest taken, the first refused above it)
MOST = [
    (2**32 - 1, 2**32, "seed"),
    (1.0, 1 + TINY, """
        rollout.top_p decode.top_p train.weight_clip train.mixture decode.target_rate
    """),
    (1 - TINY, 1.0, "sft.beta2 train.beta2 decode.reject"),
    (10**9, 10**9 + 1, """
        sft.steps sft.pretrain_steps sft.warmup train.steps train.warmup train.warmup_direction
        train.bellman_start run.log_every run.save_every
    """),
    (10**7, 10**7 + 1, """
        task.train_examples base.vocab_size rollout.prompts train.refresh_prompts evaluate.prompts
        rollout.top_k decode.top_k
    """),
    (10**6, 10**6 + 1, """
        base.n_positions sft.batch sft.accumulate sft.max_length train.batch train.accumulate
        train.rounds rollout.batch rollout.samples rollout.max_new_tokens train.refresh_samples
        decode.batch decode.max_new_tokens evaluate.samples parallel.fsdp parallel.devices
    """),
    (1e6, 1e6 + 1, """
        sft.learning_rate train.learning_rate sft.weight_decay train.weight_decay train.bellman
        train.reference_weight rollout.temperature decode.temperature decode.strength delta.alpha
        train.margin
    """),
    (100_000, 100_001, "base.n_embd base.n_head delta.rank"),
    (1_000, 1_001, "base.n_layer control.layers"),
    (1e30, 2e30, "sft.clip train.clip"),
]  # fmt: skip
CHOICES = {
    "task.name": "toy commongen",
    "base.param_dtype": "float32 bfloat16",
    "base.dtype": "float32 bfloat16",
    "sft.decay": "cosine constant",
    "control.kind": "nado soft merge hard",
    "control.direction": "nado soft merge",
    "control.form": "clamped projected",
    "control.trunk": "small copy low_rank",
    "control.norm_bias": "success_rate zero",
    "train.decay": "cosine constant",
    "train.objective": "matching regression ratio prefixes published",
    "train.weights": "importance none",
    "train.base_states": "recompute float32 bfloat16",
    "evaluate.split": "train dev test",
    "parallel.mode": "jit shard_map pmap",
}
FREE_TEXT = {
    "name",
    "task.source",
    "base.path",
    "sft.pretrain_path",
    "rollout.oracle",
    "evaluate.prompt_file",
    "run.folder",
}
OUT_OF_RANGE = re.compile(r"\S+ = \S+: it must be ")
NUMBERS = {key for key, (_, kind) in flatten(Config()).items() if kind in (int, float)}


def by_key(table):
    return {key: ends for *ends, keys in table for key in keys.split()}


def said(key, value):
    """The complaint about a value, "" if there is none."""
    section, _, name = key.rpartition(".")
    tree = tiny_run.config().as_dict()
    (tree[section] if section else tree)[name] = value
    try:
        stored_config(tree)
    except InputError as error:
        return str(error)
    return ""


def test_every_key_is_in_a_table():
    assert by_key(LEAST).keys() == NUMBERS and by_key(MOST).keys() == NUMBERS
    text = {key for key, (_, kind) in flatten(Config()).items() if kind is str}
    assert text == CHOICES.keys() | FREE_TEXT


@pytest.mark.parametrize("table", [LEAST, MOST], ids=["least", "most"])
def test_the_last_value_taken_and_the_first_refused(table):
    """What is in its range may still not fit beside other values, which is told otherwise."""
    for key, (taken, refused) in by_key(table).items():
        assert not OUT_OF_RANGE.match(said(key, taken)), (key, taken)
        told = said(key, refused)
        assert told.startswith(f"{key} = ") and OUT_OF_RANGE.match(told), (key, refused)


@pytest.mark.parametrize("key", CHOICES)
def test_every_choice(key):
    choices = CHOICES[key].split()
    for choice in choices:
        assert not said(key, choice).startswith(f"{key} = '{choice}': "), choice
    told = said(key, "other")
    assert told.startswith(f"{key} = 'other': ")
    assert all(choice in told for choice in choices) or "did you mean" in told


@pytest.mark.parametrize(
    "overrides, told",
    [
        # regression: two halves, the norm's by label, in micro-batches
        ("train.batch=12 train.accumulate=3", ""),
        ("train.batch=12 train.accumulate=2", ""),
        ("train.batch=20 train.accumulate=4", "multiple of 8"),
        ("train.batch=24 train.accumulate=4", ""),
        ("train.batch=10", "multiple of 4"),
        ("train.objective=prefixes train.batch=10", "multiple of 4"),
        ("train.objective=published train.batch=9", ""),
        ("train.objective=published train.batch=9 train.accumulate=3", ""),
        ("train.objective=published train.batch=9 train.accumulate=2", "not divisible by"),
        ("sft.batch=9 sft.accumulate=3", ""),
        ("sft.batch=9 sft.accumulate=2", "sft.batch = 9 is not divisible by"),
        # ratio: several samples of a prompt, in both kinds of rounds
        ("train.objective=ratio rollout.samples=2 train.refresh_samples=2", ""),
        ("train.objective=ratio rollout.samples=1", "set rollout.samples and"),
        ("train.objective=ratio train.refresh_samples=1", "set rollout.samples and"),
        ("train.warmup_direction=6 train.objective=regression", ""),
        ("train.warmup_direction=7", "is more than train.steps = 6"),
        ("train.mixture=0.25", ""),
        ("train.mixture=0.75 rollout.top_k=0 rollout.top_p=1", ""),
        ("train.mixture=0.3", "no whole number"),
        ("train.mixture=0.25 rollout.temperature=0.9", "weighs plain samples"),
        ("train.mixture=0.25 rollout.top_k=3", "weighs plain samples"),
        ("train.mixture=0.25 rollout.top_p=0.9", "weighs plain samples"),
        ("rollout.references=true", "draws no reference"),
        ("rollout.references=true train.reference_weight=0.5", ""),
        ("rollout.references=true train.objective=published train.warmup_direction=0", ""),
        (
            "rollout.references=true train.reference_weight=1 train.objective=prefixes "
            "train.balance=false",
            "unbalanced labels draw no reference",
        ),
        (
            "rollout.references=true train.reference_weight=1 train.objective=matching "
            "train.balance=false",
            "",
        ),
        ("parallel.fsdp=2", ""),
        ("parallel.fsdp=2 parallel.mode=shard_map", "parallel.mode=jit alone"),
        ("parallel.fsdp=1 parallel.mode=pmap", ""),
        ("sft.pretrain_steps=1", "sft.pretrain_path is empty"),
        ("sft.pretrain_steps=1 sft.pretrain_path=x", ""),
        ("task.name=commongen", "task.source is empty"),
        ("base.n_embd=18", ""),
        ("base.n_embd=17", "base.n_embd = 17 is not divisible by base.n_head = 2"),
        ("rollout.max_new_tokens=23", ""),
        ("rollout.max_new_tokens=24", "rollout.max_new_tokens = 24 leaves no room"),
        ("decode.max_new_tokens=23", ""),
        ("decode.max_new_tokens=24", "decode.max_new_tokens = 24 leaves no room"),
        # products, just within and just beyond what fits: 10^10 tokens, 10^11 parameters
        ("rollout.prompts=1250000 rollout.samples=1000", ""),
        ("rollout.prompts=1250001 rollout.samples=1000", "10,000,008,000 tokens"),
        ("train.refresh_prompts=1250000 train.refresh_samples=1000", ""),
        ("train.refresh_prompts=1250001 train.refresh_samples=1000", "train.refresh_prompts ="),
        ("evaluate.prompts=1250000 evaluate.samples=1000", ""),
        ("evaluate.prompts=1250001 evaluate.samples=1000", "evaluate.prompts = 1250001"),
        ("sft.batch=100000 sft.max_length=100000", ""),
        ("sft.batch=100001 sft.max_length=100000", "sft.max_length = 100000"),
        ("base.n_positions=1000000 rollout.max_new_tokens=10001 rollout.batch=1000000 "
         "rollout.prompts=1 rollout.samples=1", "rollout.batch = 1000000 times"),
        ("base.n_positions=1000000 decode.max_new_tokens=10001 decode.batch=1000000 "
         "evaluate.prompts=1 evaluate.samples=1", "decode.batch = 1000000 times"),
        ("base.n_layer=1000 base.n_embd=2886", ""),
        ("base.n_layer=1000 base.n_embd=2888", "parameters: at most 100,000,000,000"),
    ],
)  # fmt: skip
def test_values_beside_each_other(overrides, told):
    tree = tiny_run.config().as_dict()
    for text in overrides.split():
        key, _, value = text.partition("=")
        section, _, name = key.partition(".")
        kind = type(tree[section][name])
        tree[section][name] = value == "true" if kind is bool else kind(value)
    if told:
        with pytest.raises(InputError, match=told) as caught:
            stored_config(tree)
        assert "\n" not in str(caught.value)
    else:
        stored_config(tree)

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
        sft.batch sft.accumulate sft.max_length sft.rank sft.positions delta.rank delta.positions
        control.layers control.norm_layers
        rollout.prompts rollout.samples rollout.max_new_tokens rollout.batch
        train.steps train.batch train.accumulate train.rounds train.average
        train.refresh_prompts train.refresh_samples decode.max_new_tokens decode.batch
        evaluate.prompts evaluate.samples parallel.fsdp run.log_every run.save_every
    """),
    (0, -1, """
        seed sft.steps sft.pretrain_steps sft.warmup train.warmup train.warmup_direction
        train.bellman_start rollout.top_k decode.top_k parallel.devices delta.from_layer
        train.particles train.table_rounds decode.particles
    """),
    (0.0, -TINY, """
        sft.learning_rate sft.weight_decay sft.clip sft.beta2 sft.dropout_rate
        train.learning_rate train.state_learning_rate train.weight_decay train.clip train.beta2
        train.reference_weight train.anchor train.bound train.prefix_bound train.bellman
        train.mixture train.roll_out
        rollout.temperature rollout.oracle_seconds decode.temperature
        decode.strength decode.target_rate decode.reject task.held_out train.held_out
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
    (0.5, 0.5 + TINY, "task.held_out train.held_out"),
    (1 - TINY, 1.0, """
        sft.beta2 sft.dropout_rate train.beta2 train.roll_out decode.reject
    """),
    (10**9, 10**9 + 1, """
        sft.steps sft.pretrain_steps sft.warmup train.steps train.warmup train.warmup_direction
        train.bellman_start run.log_every run.save_every
    """),
    (10**7, 10**7 + 1, """
        task.train_examples base.vocab_size rollout.prompts train.refresh_prompts evaluate.prompts
        rollout.top_k decode.top_k
    """),
    (10**6, 10**6 + 1, """
        base.n_positions sft.batch sft.accumulate sft.max_length sft.positions delta.positions
        train.batch train.accumulate train.rounds train.average rollout.batch rollout.samples
        rollout.max_new_tokens train.refresh_samples decode.batch decode.max_new_tokens
        evaluate.samples parallel.fsdp parallel.devices train.particles train.table_rounds
        decode.particles
    """),
    (1e6, 1e6 + 1, """
        sft.learning_rate train.learning_rate train.state_learning_rate sft.weight_decay
        train.weight_decay train.bellman train.reference_weight rollout.temperature
        rollout.oracle_seconds
        decode.temperature decode.strength delta.alpha
        train.margin train.anchor train.bound train.prefix_bound
    """),
    (100_000, 100_001, "base.n_embd base.n_head delta.rank sft.rank"),
    (1_000, 1_001, "base.n_layer control.layers control.norm_layers delta.from_layer"),
    (1e30, 2e30, "sft.clip train.clip"),
]  # fmt: skip
CHOICES = {
    "sft.adapter": "none lora prefix prompt",
    "delta.kind": "lora prefix prompt",
    "task.name": "toy commongen openings prompts pairs text",
    "task.document": "line paragraph",
    "base.param_dtype": "float32 bfloat16",
    "base.dtype": "float32 bfloat16",
    "sft.decay": "cosine constant",
    "sft.dropout": "none uniform gaussian guided",
    "control.kind": "nado soft merge hard",
    "control.direction": "nado soft merge",
    "control.form": "clamped projected",
    "control.trunk": "small copy low_rank",
    "control.norm": "mlp trunk",
    "control.norm_bias": "success_rate zero",
    "train.decay": "cosine constant",
    "train.objective": (
        "matching regression variance consistency policy_iteration ratio contrastive reinforce ppo "
        "prefixes published"
    ),
    "train.weights": "importance none",
    "train.base_states": "recompute float32 bfloat16",
    "evaluate.split": "train dev test",
    "task.languages": "en-de en-es",
    "parallel.mode": "jit shard_map pmap",
    "run.report_to": "none tensorboard",
}
FREE_TEXT = {
    "name",
    "task.source",
    "task.dev",
    "task.test",
    "task.field",
    "task.target_field",
    "task.text_field",
    "base.path",
    "base.prompt_template",
    "sft.pretrain_path",
    "rollout.oracle",
    "evaluate.prompt_file",
    "evaluate.oracle",
    "decode.hmm",
    "task.languages",
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

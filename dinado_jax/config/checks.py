"""The range of each setting by itself; every fault is one line that says how to fix it."""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dinado_jax.config.schema import Moment
from dinado_jax.errors import quote

PROMPT, CHAT, HIDDEN = "{prompt}", "chat", "hidden"  # in a prompt template, and as one
DTYPES = ("float32", "bfloat16")  # of a base

_CHOICES = {
    "task.languages": ("en-de", "en-es"),
    "task.document": ("line", "paragraph"),
    "control.form": ("projected", "clamped"),
    "control.trunk": ("small", "copy", "low_rank"),
    "control.norm": ("mlp", "trunk"),
    "control.norm_bias": ("success_rate", "zero"),
    "train.weights": ("importance", "none"),
    "train.base_states": ("recompute", "float32", "bfloat16"),
    "sft.decay": ("cosine", "constant"),
    "sft.adapter": ("none", "lora", "prefix", "prompt"),
    "delta.kind": ("lora", "prefix", "prompt"),
    "sft.dropout": ("none", "uniform", "gaussian", "guided"),
    "train.decay": ("cosine", "constant"),
    "evaluate.split": ("train", "dev", "test"),
    "run.report_to": ("none", "tensorboard"),
    "parallel.mode": ("jit", "shard_map", "pmap"),
    "base.dtype": DTYPES,
    "base.param_dtype": DTYPES,
}
_BOUNDS = (
    (
        "at least 1",
        lambda x: x >= 1,
        """
        task.train_examples base.vocab_size base.n_positions base.n_embd base.n_layer base.n_head
        sft.batch sft.accumulate sft.max_length sft.rank sft.positions delta.rank
        delta.positions control.layers control.norm_layers
        rollout.max_new_tokens rollout.batch rollout.prompts rollout.samples
        train.batch train.accumulate train.rounds train.steps train.average
        train.refresh_prompts train.refresh_samples decode.max_new_tokens decode.batch
        evaluate.prompts evaluate.samples parallel.fsdp run.log_every run.save_every
        """,
    ),
    (
        "0 or more",
        lambda x: x >= 0,
        """
        sft.steps sft.pretrain_steps sft.learning_rate sft.warmup sft.weight_decay sft.clip
        train.learning_rate train.state_learning_rate train.warmup train.weight_decay train.clip
        train.warmup_direction
        train.reference_weight train.anchor train.bound train.prefix_bound train.bellman
        train.bellman_start train.table_rounds train.particles
        delta.from_layer
        rollout.temperature rollout.top_k rollout.oracle_seconds decode.temperature decode.top_k
        decode.strength decode.particles parallel.devices
        """,
    ),
    ("above 0", lambda x: x > 0, "train.margin"),
    ("in (0, 1]", lambda x: 0 < x <= 1, "rollout.top_p decode.top_p train.weight_clip"),
    (
        "in [0, 1)",
        lambda x: 0 <= x < 1,
        "sft.beta2 sft.dropout_rate train.beta2 train.roll_out decode.reject",
    ),
    ("in [0, 1]", lambda x: 0 <= x <= 1, "train.mixture decode.target_rate"),
    ("in [0, 0.5]", lambda x: 0 <= x <= 0.5, "task.held_out train.held_out"),
    ("in [0, 2^32)", lambda x: 0 <= x < 2**32, "seed"),
)
# The most of each: more is a typo, and would overflow, hang or fill all memory.
LARGEST = {
    key: most
    for most, keys in (
        (
            1_000_000_000,
            """
            sft.steps sft.pretrain_steps sft.warmup train.steps train.warmup
            train.warmup_direction train.bellman_start run.log_every run.save_every
            """,
        ),
        (
            10_000_000,
            """
            task.train_examples base.vocab_size rollout.prompts train.refresh_prompts
            evaluate.prompts rollout.top_k decode.top_k
            """,
        ),
        (
            1_000_000,
            """
            base.n_positions base.n_inner sft.batch sft.accumulate sft.max_length train.batch
            train.accumulate train.rounds train.average rollout.batch rollout.samples sft.positions
            delta.positions
            rollout.max_new_tokens rollout.oracle_seconds train.refresh_samples decode.batch
            decode.max_new_tokens
            evaluate.samples parallel.fsdp parallel.devices sft.learning_rate train.learning_rate
            train.state_learning_rate
            sft.weight_decay train.weight_decay train.bellman train.reference_weight
            rollout.temperature decode.temperature decode.strength delta.alpha train.margin
            train.anchor train.bound train.prefix_bound train.particles decode.particles
            train.table_rounds
            """,
        ),
        (100_000, "base.n_embd base.n_head delta.rank sft.rank"),
        (1_000, "base.n_layer control.layers control.norm_layers delta.from_layer"),
        (1e30, "sft.clip train.clip"),
    )
    for key in keys.split()
}


def not_among(key: str, value: str, choices: Iterable[str]) -> Iterator[str]:
    """Yields a fault unless the value of a setting is one of the choices."""
    choices = tuple(choices)
    if value not in choices:
        close = difflib.get_close_matches(value, choices, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(choices)}"
        yield f"{key} = {quote(value)}: {hint}"


def template_faults(key: str, template: str) -> Iterator[str]:
    """Yields the fault of a prompt template that is neither "chat" nor "hidden" nor a text with one
    {prompt}.
    """
    if template not in (CHAT, HIDDEN) and (count := template.count(PROMPT)) != 1:
        yield (
            f"{key} = {quote(template)}: it has {PROMPT} {count} times, write a text that has it "
            f"once, {CHAT} for the tokenizer's own, or {HIDDEN} for no prompt"
        )


def moment_faults(key: str, moments: Sequence[Moment]) -> Iterator[str]:
    """Yields the faults of the moments of a target, each by itself."""
    for number, moment in enumerate(moments, start=1):
        if not moment.feature or "\0" in moment.feature:
            yield (
                f"{key}, table {number}, feature = {quote(moment.feature)}: give the name of a "
                'function, "package.module:function"'
            )
        if not math.isfinite(moment.mean):
            yield f"{key}, mean = {moment.mean} of feature {moment.feature}: it must be finite"
    features = [moment.feature for moment in moments]
    for feature in dict.fromkeys(name for name in features if features.count(name) > 1):
        yield f"{key}, feature {quote(feature)} is given twice: leave one out"


def strength_faults(key: str, strengths: Sequence[float]) -> Iterator[str]:
    """Yields the faults of a list of strengths."""
    for strength in strengths:
        if not 0 <= strength <= LARGEST["decode.strength"]:
            most = f"{LARGEST['decode.strength']:,}"
            yield f"{key} = {quote(list(strengths))}: each must be 0 (the base) to {most}"
    for strength in dict.fromkeys(one for one in strengths if strengths.count(one) > 1):
        yield f"{key}: {strength} is given twice, leave one out"


def out_of_range(values: dict[str, Any]) -> Iterator[str]:
    """Yields the faults of single values, given by "section.key".

    Names of tasks, objectives and kinds of control are left to `stages/settings.py`.
    """
    for key, choices in _CHOICES.items():
        yield from not_among(key, values[key], choices)
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key} = {value}: it must be finite"
        if isinstance(value, str) and "\0" in value:
            yield f"{key} = {quote(value)}: remove the NUL character"
    yield from moment_faults("target.moments", values["target.moments"])
    yield from strength_faults("evaluate.strengths", values["evaluate.strengths"])
    if template := values["base.prompt_template"]:
        yield from template_faults("base.prompt_template", template)
    for wanted, holds, keys in _BOUNDS:
        for key in keys.split():
            if not holds(values[key]):
                yield f"{key} = {quote(values[key])}: it must be {wanted}"
    for key, most in LARGEST.items():
        if key in values and abs(values[key]) > most:
            yield f"{key} = {quote(values[key])}: it must be at most {most:,}, correct the typo"
    # It becomes a folder inside run.folder.
    if not re.fullmatch(r"[\w.-]+", values["name"]) or values["name"] in (".", ".."):
        name = quote(values["name"])
        yield f"name = {name}: a folder's name of letters, digits and . _ - is needed"

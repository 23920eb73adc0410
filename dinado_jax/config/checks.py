"""Which values a configuration may hold; every fault is told as one line with its fix."""

import difflib
import math
import re
import typing
from collections.abc import Iterator
from typing import Any

from dinado_jax.errors import quote

if typing.TYPE_CHECKING:
    from dinado_jax.config.schema import Base, Config

_CHOICES = {
    "task.name": ("toy", "commongen"),
    "control.kind": ("nado", "soft", "merge", "hard"),
    "control.direction": ("nado", "soft", "merge"),
    "control.form": ("projected", "clamped"),
    "control.trunk": ("small", "copy", "low_rank"),
    "control.norm_bias": ("success_rate", "zero"),
    "train.objective": ("matching", "regression", "ratio", "prefixes", "published"),
    "train.weights": ("importance", "none"),
    "train.base_states": ("recompute", "float32", "bfloat16"),
    "sft.decay": ("cosine", "constant"),
    "train.decay": ("cosine", "constant"),
    "evaluate.split": ("train", "dev", "test"),
    "parallel.mode": ("jit", "shard_map", "pmap"),
    "base.dtype": ("float32", "bfloat16"),
    "base.param_dtype": ("float32", "bfloat16"),
}
_BOUNDS = (
    (
        "at least 1",
        lambda x: x >= 1,
        """
        task.train_examples base.vocab_size base.n_positions base.n_embd base.n_layer base.n_head
        sft.batch sft.accumulate sft.max_length delta.rank control.layers
        rollout.max_new_tokens rollout.batch rollout.prompts rollout.samples
        train.batch train.accumulate train.rounds train.steps train.refresh_prompts
        train.refresh_samples decode.max_new_tokens decode.batch
        evaluate.prompts evaluate.samples parallel.fsdp run.log_every run.save_every
        """,
    ),
    (
        "0 or more",
        lambda x: x >= 0,
        """
        sft.steps sft.pretrain_steps sft.learning_rate sft.warmup sft.weight_decay sft.clip
        train.learning_rate train.warmup train.weight_decay train.clip train.warmup_direction
        train.reference_weight train.bellman train.bellman_start
        rollout.temperature rollout.top_k decode.temperature decode.top_k
        decode.strength parallel.devices
        """,
    ),
    ("above 0", lambda x: x > 0, "train.margin"),
    ("in (0, 1]", lambda x: 0 < x <= 1, "rollout.top_p decode.top_p train.weight_clip"),
    ("in [0, 1)", lambda x: 0 <= x < 1, "sft.beta2 train.beta2 decode.reject"),
    ("in [0, 1]", lambda x: 0 <= x <= 1, "train.mixture decode.target_rate"),
    ("in [0, 2^32)", lambda x: 0 <= x < 2**32, "seed"),
)
# The most of each: more is a slip of the keyboard, and would overflow, hang or fill all memory.
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
            train.accumulate train.rounds rollout.batch rollout.samples rollout.max_new_tokens
            train.refresh_samples decode.batch decode.max_new_tokens evaluate.samples
            parallel.fsdp parallel.devices sft.learning_rate train.learning_rate
            sft.weight_decay train.weight_decay train.bellman train.reference_weight
            rollout.temperature decode.temperature decode.strength delta.alpha train.margin
            """,
        ),
        (100_000, "base.n_embd base.n_head delta.rank"),
        (1_000, "base.n_layer control.layers"),
        (1e30, "sft.clip train.clip"),
    )
    for key in keys.split()
}
_MOST_PARAMETERS = 10**11  # 400 GB in float32
_MOST_TOKENS = 10**10  # of a batch, or of all rollouts of a round: 40 GB of ids alone


def out_of_range(values: dict[str, Any]) -> Iterator[str]:
    """What is wrong with single values, given by "section.key"."""
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            close = difflib.get_close_matches(values[key], choices, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(choices)}"
            yield f"{key} = {quote(values[key])}: {hint}"
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key} = {value}: it must be finite"
        if isinstance(value, str) and "\0" in value:
            yield f"{key} = {quote(value)}: remove the NUL character"
    for wanted, holds, keys in _BOUNDS:
        for key in keys.split():
            if not holds(values[key]):
                yield f"{key} = {quote(values[key])}: it must be {wanted}"
    for key, most in LARGEST.items():
        if key in values and abs(values[key]) > most:
            yield f"{key} = {quote(values[key])}: it must be at most {most:,}, correct the typo"
    # It becomes a folder, and stays inside run.folder.
    if not re.fullmatch(r"[\w.-]+", values["name"]) or values["name"] in (".", ".."):
        name = quote(values["name"])
        yield f"name = {name}: a folder's name of letters, digits and . _ - is needed"


def contradictions(config: "Config") -> Iterator[str]:
    """What is wrong with values, each in its range, beside each other."""
    sft, train, base = config.sft, config.train, config.base
    for name, section in (("sft", sft), ("train", train)):
        if section.batch % section.accumulate:
            yield (
                f"{name}.batch = {section.batch} is not divisible by {name}.accumulate = "
                f"{section.accumulate}: choose a multiple"
            )
    # Half a batch is for the direction; the other is balanced by label, and both are split.
    unit = math.lcm(4, 2 * train.accumulate)
    halved = train.objective != "published"
    if halved and train.batch % unit:
        yield (
            f"train.batch = {train.batch}: with objective {train.objective} and train.accumulate = "
            f"{train.accumulate} it must be a multiple of {unit}"
        )
    if train.objective == "ratio" and 1 in (config.rollout.samples, train.refresh_samples):
        yield (
            "train.objective = ratio compares the samples of a prompt: set rollout.samples and "
            "train.refresh_samples to 2 or more"
        )
    if train.warmup_direction > train.steps:
        yield (
            f"train.warmup_direction = {train.warmup_direction} is more than train.steps = "
            f"{train.steps}: lower it, 0 is no warm-up"
        )
    share = train.mixture * train.refresh_samples
    if abs(share - round(share)) > 1e-6:
        yield (
            f"train.mixture = {train.mixture} of train.refresh_samples = {train.refresh_samples} "
            "is no whole number of samples: change one of them"
        )
    rollout = config.rollout
    if train.mixture and (rollout.temperature != 1 or rollout.top_k or rollout.top_p < 1):
        yield (
            "train.mixture weighs plain samples of base and control: leave rollout.temperature, "
            "rollout.top_k and rollout.top_p at their defaults, or set train.mixture=0"
        )
    unused = config.rollout.references and not train.reference_weight
    if halved and unused:
        yield (
            f"rollout.references = true, but objective {train.objective} draws no reference while "
            "train.reference_weight = 0: set train.reference_weight, or rollout.references=false"
        )
    if train.objective == "prefixes" and not train.balance and config.rollout.references:
        yield (
            "rollout.references = true, but unbalanced labels draw no reference: set "
            "train.balance=true, or rollout.references=false"
        )
    if config.parallel.fsdp > 1 and config.parallel.mode != "jit":
        yield (
            f"parallel.fsdp = {config.parallel.fsdp} is for parallel.mode=jit alone: set it, or "
            "parallel.fsdp=1"
        )
    if sft.pretrain_steps and not sft.pretrain_path:
        yield (
            "sft.pretrain_path is empty: give plain text, sft.pretrain_path=FILE, or leave it out "
            "with sft.pretrain_steps=0"
        )
    if config.task.name == "commongen" and not config.task.source:
        yield "task.source is empty: give CommonGen's folder or hub name, task.source=FOLDER"
    yield from _beyond_memory(config)
    if base.path:
        return  # the sizes are the checkpoint's
    if (parameters := _parameters(base)) > _MOST_PARAMETERS:
        yield (
            f"base.n_layer = {base.n_layer}, base.n_embd = {base.n_embd} and base.vocab_size = "
            f"{base.vocab_size} make {parameters:,} parameters: at most {_MOST_PARAMETERS:,} "
            "fit, lower them"
        )
    if base.n_embd % base.n_head:
        yield (
            f"base.n_embd = {base.n_embd} is not divisible by base.n_head = {base.n_head}: "
            "choose a multiple"
        )
    for name, section in (("rollout", config.rollout), ("decode", config.decode)):
        if section.max_new_tokens >= base.n_positions:
            yield (
                f"{name}.max_new_tokens = {section.max_new_tokens} leaves no room for a prompt in "
                f"base.n_positions = {base.n_positions}: lower one or raise the other"
            )


def _parameters(base: "Base") -> int:
    """Of a new model, biases and LayerNorms left out."""
    rows = 12 * base.n_layer * base.n_embd + base.vocab_size + base.n_positions
    return rows * base.n_embd


def _beyond_memory(config: "Config") -> Iterator[str]:
    """Products of values, each in its range, that no machine holds."""
    sft, rollout, train, decode = config.sft, config.rollout, config.train, config.decode
    for product in (
        {"sft.batch": sft.batch, "sft.max_length": sft.max_length},
        {
            "rollout.prompts": rollout.prompts,
            "rollout.samples": rollout.samples,
            "rollout.max_new_tokens": rollout.max_new_tokens,
        },
        {
            "train.refresh_prompts": train.refresh_prompts,
            "train.refresh_samples": train.refresh_samples,
            "rollout.max_new_tokens": rollout.max_new_tokens,
        },
        {
            "evaluate.prompts": config.evaluate.prompts,
            "evaluate.samples": config.evaluate.samples,
            "decode.max_new_tokens": decode.max_new_tokens,
        },
        {"rollout.batch": rollout.batch, "rollout.max_new_tokens": rollout.max_new_tokens},
        {"decode.batch": decode.batch, "decode.max_new_tokens": decode.max_new_tokens},
    ):
        if (tokens := math.prod(product.values())) > _MOST_TOKENS:
            factors = " times ".join(f"{key} = {value}" for key, value in product.items())
            yield f"{factors} is {tokens:,} tokens: at most {_MOST_TOKENS:,} fit, lower one"

"""The first configuration of a run of one's own: the settings to look at, each with a comment."""

import math
from collections.abc import Iterator
from typing import Any

from dinado_jax.config.toml_text import toml_value
from dinado_jax.models.architectures import load_model
from dinado_jax.models.hf_folder import locate, on_the_hub
from dinado_jax.models.params import param_shapes
from dinado_jax.models.protocol import BaseModel

Setting = tuple[str, Any, str]  # key, value, comment
_SMALL = 10_000_000  # parameters: the demo's values are for bases below this, as in configs/
_COLUMN = 28  # where comments begin

_HEAD = """\
# A first configuration.
#   dinado run {file} --dry-run         parameters, FLOPs and memory; nothing is run
#   dinado run {file}
# All other settings have their defaults: --print-config prints them, dinado_jax/config/schema.py
# explains them. On the command line, section.key=value changes any of them.
"""


def first_config(file: str, name: str, prompts: str, oracle: str, base: str) -> str:
    """Writes the text of a configuration. A new base is as large as the demo's.

    Args:
      file: where it will be, as it is shown.
      name: of the run.
      prompts: path of a file of prompts; "" for those of a built-in task.
      oracle: as rollout.oracle; "" for that of the task.
      base: as base.path; "" for a new one.

    Raises:
      InputError: if there is no such base on this machine; names of the hub are not looked up.
    """
    model = None if not base or on_the_hub(base) else load_model(locate(base))
    small = not base or (model is not None and _size(model) < _SMALL)
    text = [_HEAD.format(file=file)]
    text += _lines([("name", name, "of the run's folder in runs/"), ("seed", 0, "")])
    sections = {
        "task": _task(prompts, base),
        "base": _base(base),
        "sft": _sft(base),
        "delta": _delta(small, model),
        "rollout": _rollout(small, oracle, model),
        "train": _train(small, model),
        "decode": _decode(small, model),
        "evaluate": [
            ("prompts", 500 if small else 48, "held-out ones, at most"),
            ("samples", 4, "of each, from the base and from the control"),
        ],
    }
    for section, settings in sections.items():
        text += ["", f"[{section}]", *_lines(settings)]
    return "\n".join(text) + "\n"


def _size(model: BaseModel) -> int:
    return sum(map(math.prod, param_shapes(model).values()))


def _lines(settings: list[Setting]) -> Iterator[str]:
    for key, value, comment in settings:
        line = f"{key} = {toml_value(value)}"
        yield f"{line:{_COLUMN}}  # {comment}" if comment else line


def _task(prompts: str, base: str) -> list[Setting]:
    if prompts:
        return [
            ("name", "prompts", "your own, exactly as they are written"),
            ("source", prompts, "one per line, or .jsonl with a field prompt"),
            ("held_out", 0.2, "share that is not trained on: half dev, half test"),
        ]
    if base:
        return [("name", "openings", "of English sentences; your own: prompts, with source = FILE")]
    return [("name", "toy", "captions of a small grammar, to try things; a base learns it first")]


def _base(base: str) -> list[Setting]:
    if base:
        return [
            ("path", base, "a folder, a .gguf file, package:FILE or a name on the hub"),
            (
                "prompt_template",
                "",
                "text with {prompt}, or chat, the tokenizer's own; or none",
            ),
        ]
    return [
        ("n_embd", 64, "width of the new model"),
        ("n_layer", 2, "its layers"),
        ("n_positions", 24, "its longest text, in tokens"),
    ]


def _sft(base: str) -> list[Setting]:
    if base:
        return [("steps", 0, "0: the base as it is; it can only be tuned where a task has texts")]
    return [("steps", 1200, "of training the new model on the task's texts")]


def _rollout(small: bool, oracle: str, model: BaseModel | None) -> list[Setting]:
    settings: list[Setting] = [
        ("prompts", 1000 if small else 96, "that the base continues; they take turns"),
        ("samples", 8, "of each: hundreds of successes in all are wanted"),
        ("max_new_tokens", _new_tokens(small, model), "of a sample"),
        ("batch", 512 if small else 64, "rows decoded at once: less takes less memory"),
    ]
    if oracle:
        what = "judges texts; try it: dinado oracle check"
        settings.insert(0, ("oracle", oracle, what))
    return settings


def _delta(small: bool, model: BaseModel | None) -> list[Setting]:
    settings: list[Setting] = [("rank", 16, "of the change of each matrix: more can learn more")]
    if not small and model is not None and model.num_layers > 1:
        half = model.num_layers // 2
        what = f"of {model.num_layers}: layers below do not change, half of the work"
        settings.append(("from_layer", half, what))
    return settings


def _train(small: bool, model: BaseModel | None) -> list[Setting]:
    if small:
        return [
            ("objective", "regression", "or matching, which needs fewer successes"),
            ("rounds", 5, "of sampling the control, judging and learning"),
            ("steps", 900, "of all rounds together"),
            ("batch", 256, "rows per step"),
            ("learning_rate", 1e-2, "lower it if the loss is not finite"),
            ("refresh_prompts", 1000, "that each later round continues"),
            ("refresh_samples", 8, "of each"),
        ]
    settings: list[Setting] = [
        ("objective", "matching", "towards q* itself: few successes are enough"),
        ("warmup_direction", 0, "matching needs no likelihood first"),
        ("rounds", 3, "of sampling the control, judging and learning"),
        ("steps", 75, "of all rounds together: more if the success rate still rises"),
        ("batch", 24, "rows per step: less takes less memory"),
        ("learning_rate", 1e-3, "lower it if the loss is not finite"),
        ("warmup", 10, "steps of increasing learning rate"),
        ("refresh_prompts", 48, "that each later round continues"),
        ("refresh_samples", 8, "of each"),
    ]
    if model is not None:
        settings.append(("base_states", "float32", "on disk, what does not change"))
    return settings


def _decode(small: bool, model: BaseModel | None) -> list[Setting]:
    return [
        ("max_new_tokens", _new_tokens(small, model), "of what is generated to be judged"),
        ("batch", 512 if small else 64, "rows decoded at once"),
        ("strength", 1.0, "of the control: below 1 closer to the base"),
    ]


def _new_tokens(small: bool, model: BaseModel | None) -> int:
    """As many as in configs/, and at most two thirds of the base's context, as in the demo."""
    most = 16 if small else 20
    return most if model is None else min(most, max(1, model.context_length * 2 // 3))

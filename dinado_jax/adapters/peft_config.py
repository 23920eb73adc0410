"""The adapter_config.json of a LoRA adapter of PEFT: which modules it changes, and how.

Options that would change the result and are not applied here are refused, not ignored.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinado_jax.errors import InputError, quote
from dinado_jax.models.hf_folder import ADAPTER, refuse_options
from dinado_jax.models.prefix_folder import BESIDE, PREFIX, PROMPT
from dinado_jax.utils.files import read_json, validate

LORA = "LORA"  # a peft_type, as those of models.prefix_folder
_AGAIN = "copy or download the adapter again"
_FIX = "merge it into its base with peft's merge_and_unload and load that folder"
# How it was trained, where it comes from, and what follows from the names of its tensors.
_WITHOUT_EFFECT = (
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying",
    "eva_config", "fan_in_fan_out", "inference_mode", "layers_pattern", "loftq_config",
    "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "runtime_config",
)  # fmt: skip
# Any other option must be absent, null, false or empty, or one of these.
_NEUTRAL = {
    "bias": ("none",),
    "task_type": ("CAUSAL_LM",),
    # Others change the base's weights too.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
_SCHEMA = {  # of what is read besides
    "r": int,
    "lora_alpha": float,
    "use_rslora": bool,
    "rank_pattern": dict,
    "alpha_pattern": dict,
    "target_modules": (str, list),
    "exclude_modules": (str, list),
    "layers_to_transform": (int, list),
}
_DEFAULTS = {
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "exclude_modules": [],
    "layers_to_transform": [],
}


@dataclasses.dataclass(frozen=True)
class PeftConfig:
    """What a config says of modules, which have transformers' names.

    A pattern is a regular expression of the last parts of a name; the first that matches counts.
    """

    r: int  # the rank where no pattern matches
    lora_alpha: float  # likewise
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: str | Sequence[str]  # an expression of whole names, or last parts of names
    exclude_modules: str | Sequence[str]
    layers_to_transform: int | Sequence[int]  # none: all

    def changes(self, module: str) -> bool:
        """Whether the adapter changes a module."""
        if _named(self.exclude_modules, module) or not _named(self.target_modules, module):
            return False
        layers = self.layers_to_transform
        if isinstance(self.target_modules, str) or layers == []:
            return True  # as in PEFT, an expression names layers itself
        layers = [layers] if isinstance(layers, int) else layers
        number = re.search(r"\.(\d+)\.", module)
        return number is not None and int(number[1]) in layers

    def rank(self, module: str) -> int:
        """Of the change of a module."""
        return _by_pattern(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """Multiplies the product of a module's factors; rank-stabilised LoRA divides by the root of
        the rank (arXiv 2312.03732).
        """
        rank = self.rank(module)
        alpha = _by_pattern(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def peft_type(folder: Path) -> Any:
    """The kind of a folder's adapter. InputError where adapter_config.json is missing or damaged,
    or of a kind that is not supported.
    """
    path = folder / ADAPTER
    found = read_json(path, _AGAIN).get("peft_type")
    if found not in (LORA, PREFIX, PROMPT):
        fix = "load the base that its folder lies in" if found == BESIDE else "train one of these"
        raise InputError(
            f"{path} has peft_type = {quote(found)}: only {LORA}, {PREFIX} and {PROMPT} are "
            f"supported, {fix}"
        )
    return found


def read_peft_config(folder: Path) -> PeftConfig:
    """Reads the adapter_config.json of a LoRA.

    Raises:
      InputError: it is missing or damaged, or has an option that is not applied here, which the
        message names.
    """
    path = folder / ADAPTER
    found = read_json(path, _AGAIN)
    others = found.keys() - {"peft_type", *_SCHEMA, *_WITHOUT_EFFECT}
    neutral = {name: _NEUTRAL.get(name, (False, {}, [])) for name in sorted(others)}
    refuse_options(found, neutral, str(path), _FIX)
    config = _DEFAULTS | {name: found[name] for name in _SCHEMA if found.get(name) is not None}
    validate(config, _SCHEMA, str(path), _AGAIN)
    for name in ("rank_pattern", "alpha_pattern"):
        kind = int if name == "rank_pattern" else float
        validate(config[name], dict.fromkeys(config[name], kind), f"{path}, {name}", _AGAIN)
    for name in ("target_modules", "exclude_modules", "layers_to_transform"):
        kind = int if name == "layers_to_transform" else str
        if isinstance(config[name], list):
            validate(config[name], [kind], f"{path}, {name}", _AGAIN)
    _check_numbers(config, path)
    return PeftConfig(**config)


def _check_numbers(config: Mapping[str, Any], path: Path) -> None:
    """InputError for a rank below 1, or an alpha that is not finite."""
    ranks = {"r": config["r"]} | config["rank_pattern"]
    alphas = {"lora_alpha": config["lora_alpha"]} | config["alpha_pattern"]
    for name, rank in ranks.items():
        if rank < 1:
            raise InputError(f"{path} has rank {name} = {rank}: it must be at least 1, {_AGAIN}")
    for name, alpha in alphas.items():
        if not math.isfinite(alpha):
            raise InputError(f"{path} has alpha {name} = {alpha}: it must be finite, {_AGAIN}")


def _named(names: str | Sequence[str], module: str) -> bool:
    if isinstance(names, str):
        return _matches(names, module)
    return any(f".{module}".endswith(f".{name}") for name in names)


def _by_pattern(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    matching = (key for key in pattern if _matches(rf"(?:.*\.)?(?:{key})", module))
    key = next(matching, None)
    return default if key is None else pattern[key]


def _matches(expression: str, module: str) -> bool:
    try:
        return re.fullmatch(expression, module) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(
            f"{ADAPTER} has {quote(expression)}, not a regular expression ({error}): {_AGAIN}"
        ) from None

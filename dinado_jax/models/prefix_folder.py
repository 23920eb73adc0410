"""Prefixes and prompts in PEFT's folders: adapter_config.json and adapter_model.safetensors.

The file has one tensor, prompt_embeddings: of a prefix [P, L 2 F], of each layer its keys, then its
values; of a prompt [P, D]. A base with a prefix has such a folder, `prefix`, beside its weights.

In PEFT rows stand behind all of these positions. A prefix of a base whose rows do not is of a kind
that PEFT refuses.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinado_jax.errors import InputError, quote
from dinado_jax.models.hf_folder import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    check_finite,
    check_tensors,
    read_adapter_weights,
    refuse_options,
    write_tensors,
)
from dinado_jax.models.protocol import PrefixModel
from dinado_jax.utils.files import read_json, validate, write_json

PREFIX, PROMPT = "PREFIX_TUNING", "PROMPT_TUNING"
BESIDE = "PREFIX_BESIDE_ROWS"  # with first_position
_AGAIN = "copy or download the adapter again"
_TENSOR = "prompt_embeddings"
# How it was trained, where it comes from, and sizes that `_read` or the tensor's shape checks.
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "encoder_hidden_size", "inference_mode",
    "init_weights", "num_attention_heads", "num_layers", "peft_version", "prefix_projection",
    "prompt_tuning_init", "prompt_tuning_init_text", "revision", "token_dim",
    "tokenizer_kwargs", "tokenizer_name_or_path",
}  # fmt: skip
# Any other option must be absent, null, false or empty, or one of these.
_NEUTRAL = {"task_type": ("CAUSAL_LM",), "num_transformer_submodules": (1,)}


class Positions(NamedTuple):
    """What an adapter_config.json says of them."""

    kind: str  # PREFIX | PROMPT | BESIDE
    count: int  # P
    first_position: int  # of a row's first token


def read_positions(folder: Path) -> Positions:
    """Reads a folder's adapter_config.json.

    Raises:
      InputError: it is missing or damaged, of another kind, or has an option that is not applied
        here, which the message names.
    """
    path = folder / ADAPTER
    found = read_json(path, _AGAIN)
    kind = found.get("peft_type")
    if kind not in (PREFIX, PROMPT, BESIDE):
        raise InputError(f"{path} has peft_type = {quote(kind)}: it must be {PREFIX} or {PROMPT}")
    names = ("num_virtual_tokens", "first_position")[: 1 + (kind == BESIDE)]
    others = found.keys() - {"peft_type", *names, *_WITHOUT_EFFECT}
    neutral = {name: _NEUTRAL.get(name, (False, {}, [])) for name in sorted(others)}
    refuse_options(found, neutral, str(path), "train one without it")
    read = {name: found.get(name) for name in names}
    validate(read, dict.fromkeys(names, int), str(path), _AGAIN)
    if (count := found["num_virtual_tokens"]) < 1:
        raise InputError(
            f"{path} has num_virtual_tokens = {count}: it must be at least 1, {_AGAIN}"
        )
    first = found.get("first_position", count)
    if not 0 <= first <= count:
        raise InputError(f"{path} has first_position = {first}: it must be 0 to {count}, {_AGAIN}")
    return Positions(kind, count, first)


def read_prefix(folder: Path, model: PrefixModel) -> np.ndarray:
    """Reads a prefix for a base, PEFT's or its own: [P, L 2 F] in its stored dtype.

    Raises:
      InputError: as `read_positions`; for a prompt, for missing, pickled or damaged weights, and
        for a tensor that does not fit the base.
    """
    return _read(folder, (PREFIX, BESIDE), model, model.prefix_width, len(model.prefix_paths))


def read_prompt(folder: Path, model: PrefixModel) -> np.ndarray:
    """Reads a prompt for a base: [P, D] in its stored dtype. InputError as `read_prefix`."""
    return _read(folder, (PROMPT,), model, model.width, 1)


def _read(
    folder: Path, kinds: tuple[str, ...], model: PrefixModel, width: int, parts: int
) -> np.ndarray:
    found = read_positions(folder)
    if found.kind not in kinds:
        raise InputError(
            f"{folder / ADAPTER} has peft_type = {found.kind}: {kinds[0]} is wanted here"
        )
    path = folder / ADAPTER
    sizes = {"num_layers": model.num_layers, "token_dim": width}
    if found.kind != PROMPT:
        sizes["num_attention_heads"] = model.kv_heads
    # Their product, which the tensor has, may be the same for another base.
    for name, given in read_json(path, _AGAIN).items():
        if given is not None and given != sizes.get(name, given):
            raise InputError(
                f"{path} has {name} = {quote(given)}, and the base {sizes[name]}: give an adapter "
                "of this base"
            )
    tensors = read_adapter_weights(folder)
    check_tensors(tensors, {_TENSOR: (found.count, parts * width)}, folder, ADAPTER)
    check_finite(tensors, folder)
    return tensors[_TENSOR]


def write_prefix(
    folder: Path,
    model: PrefixModel,
    prefix: np.ndarray,
    base: str | None = None,
    first_position: int | None = None,
) -> None:
    """Writes a folder that `read_prefix` loads, and PEFT where rows stand behind the prefix.

    Args:
      folder: there already.
      model: of the base.
      prefix: [P, L 2 F].
      base: a folder or hub name of the base, for PEFT; None: it is not named.
      first_position: of a row's first token; None: behind the prefix.
    """
    of_layers = {
        "num_attention_heads": model.kv_heads,
        "token_dim": model.prefix_width,
        "encoder_hidden_size": model.prefix_width,
        "prefix_projection": False,
    }
    sizes = {"num_layers": model.num_layers} | of_layers
    if first_position in (None, len(prefix)):
        _write(folder, PREFIX, prefix, base, sizes)
    else:
        _write(folder, BESIDE, prefix, base, sizes | {"first_position": first_position})


def write_prompt(folder: Path, model: PrefixModel, prompt: np.ndarray, base: str) -> None:
    """Writes a folder that PEFT and `read_prompt` load; `prompt` is [P, D]. See `write_prefix`."""
    sizes = {"num_attention_heads": 1, "num_layers": model.num_layers, "token_dim": model.width}
    _write(folder, PROMPT, prompt, base, sizes | {"prompt_tuning_init": "RANDOM"})


def _write(folder: Path, kind: str, values: np.ndarray, base: str | None, others: dict) -> None:
    config = {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "num_virtual_tokens": len(values),
        "num_transformer_submodules": 1,
    }
    write_tensors(folder / ADAPTER_WEIGHTS, {_TENSOR: np.asarray(values)})
    write_json(folder / ADAPTER, config | others)

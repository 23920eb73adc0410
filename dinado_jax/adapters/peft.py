"""Adapters in PEFT's folders: adapter_config.json and adapter_model.safetensors.

Prefixes and prompts are arrays of positions, see `models.prefix_folder`. With a LoRA, a module of
the base has W + scale B A, where W [out, in] is its matrix, A [r, in] and B [out, r] are tensors of
the file. Our kernels are (out, in) too, whatever those of a checkpoint are; our factors a [in, r]
and b [r, out] are A and B transposed.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.adapters.lora import Delta, LoRA
from dinado_jax.adapters.peft_config import LORA, PeftConfig, peft_type, read_peft_config
from dinado_jax.adapters.prefix import Prefix, Prompt, behind, keys_and_values, with_prefix
from dinado_jax.adapters.protocol import Adapter
from dinado_jax.errors import InputError
from dinado_jax.models.architectures import ARCHITECTURES
from dinado_jax.models.hf_folder import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    check_finite,
    check_tensors,
    read_adapter_weights,
    write_tensors,
)
from dinado_jax.models.params import by_path, has_prefix, is_kernel, nested, param_shapes
from dinado_jax.models.prefix_folder import (
    PREFIX,
    read_prefix,
    read_prompt,
    write_prefix,
    write_prompt,
)
from dinado_jax.models.protocol import BaseModel, PrefixModel
from dinado_jax.utils.files import write_json

ADAPTER_FILES = (ADAPTER, "adapter_model.*")


def save_adapter(
    folder: Path, model: BaseModel, base_params: dict, adapter: Adapter, params: Any, base: str
) -> None:
    """Writes a trained adapter as a folder that PEFT and `merge_adapter` load.

    Args:
      folder: there already.
      model: of the base.
      base_params: of the base.
      adapter: LoRA, Prefix or Prompt.
      params: the adapter's.
      base: a folder or hub name of the base, for PEFT.

    Raises:
      InputError: for changes that an adapter of PEFT cannot hold, for a base with a prefix, and for
        a full disk.
    """
    if has_prefix(base_params):
        raise InputError("its base has a prefix, which peft would not load with it")
    if isinstance(adapter, (Prefix, Prompt)) and not adapter.shift:
        raise InputError("peft has rows behind its positions: train with delta.shift=true")
    match adapter:
        case LoRA():
            _save_lora(folder, model, adapter, params, base)
        case Prefix():
            prefix = np.asarray(adapter.keys_and_values(base_params, params))
            write_prefix(folder, adapter.model, prefix, base)
        case Prompt():
            prompt = np.asarray(adapter.embeddings(base_params, params))
            write_prompt(folder, adapter.model, prompt, base)
        case _:
            raise InputError("its adapter is none of those that peft has")


def _save_lora(folder: Path, model: BaseModel, lora: LoRA, delta: Delta, base: str) -> None:
    modules = _modules(model)
    _check_low_rank(delta, modules)
    tensors, targets = {}, sorted(modules[path] for path in delta)
    for path, change in jax.device_get(delta).items():
        tensors[_key(modules[path], "A")] = change["a"].T
        tensors[_key(modules[path], "B")] = change["b"].T
    alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": alpha,
        "target_modules": targets,
        "fan_in_fan_out": ARCHITECTURES[model.model_type].KERNELS_IN_OUT,
        "bias": "none",
    }
    write_tensors(folder / ADAPTER_WEIGHTS, tensors)
    write_json(folder / ADAPTER, config)


def merge_adapter(folder: Path, model: BaseModel, params: dict) -> tuple[BaseModel, dict]:
    """Merges an adapter of PEFT into a base, in float32.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors.
      model: of the base.
      params: its parameters, on the host.

    Returns:
      The model, behind a prefix where the adapter is one or a prompt, and its parameters, the
      changed ones in float32.

    Raises:
      InputError: as `read_peft_config`, `read_prefix` and `read_prompt`; for missing, pickled or
        damaged weights, for every tensor that is missing, unused or misshapen, and for a prefix
        that leaves no room for text.
    """
    kind = peft_type(folder)
    if kind == LORA:
        return model, _merge_lora(folder, model, params)
    if not isinstance(model, PrefixModel):
        raise InputError(
            f"{folder / ADAPTER} has peft_type = {kind}, a {model.model_type} takes none"
        )
    if kind == PREFIX:
        prefix = read_prefix(folder, model)
    else:
        prompt = jnp.asarray(read_prompt(folder, model), jnp.float32)
        prefix = keys_and_values(model, params, prompt)
    merged = jax.device_get(with_prefix(model, params, prefix))
    return behind(model, len(prefix), shift=True), merged


def _merge_lora(folder: Path, model: BaseModel, params: dict) -> dict:
    config, shapes = read_peft_config(folder), param_shapes(model)
    tensors = read_adapter_weights(folder)
    modules = {path: name for path, name in _modules(model).items() if config.changes(name)}
    check_tensors(tensors, _expected(config, modules, shapes), folder, ADAPTER)
    if not modules:
        raise InputError(
            f"no matrix of this base is in target_modules, {folder / ADAPTER}: load the base that "
            "the adapter was trained on"
        )
    check_finite(tensors, folder)
    flat = by_path(params)
    for path, module in modules.items():
        a, b = (tensors[_key(module, factor)].astype(np.float32) for factor in "AB")
        flat[path] = flat[path].astype(np.float32) + np.float32(config.scale(module)) * (b @ a)
    return nested(flat)


def _modules(model: BaseModel) -> dict[str, str]:
    """transformers' name of the module of every kernel, by the kernel's path."""
    keys = ARCHITECTURES[model.model_type].keys(model)
    return {path: key.removesuffix(".weight") for path, key in keys.items() if is_kernel(path)}


def _key(module: str, factor: str) -> str:
    return f"base_model.model.{module}.lora_{factor}.weight"


def _expected(
    config: PeftConfig, modules: dict[str, str], shapes: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that these modules need."""
    expected = {}
    for path, module in modules.items():
        outputs, inputs = shapes[path]
        expected[_key(module, "A")] = (config.rank(module), inputs)
        expected[_key(module, "B")] = (outputs, config.rank(module))
    return expected


def _check_low_rank(delta: Delta, modules: dict[str, str]) -> None:
    """InputError that names the changes that are not low-rank ones of kernels."""
    others = [path for path, change in delta.items() if path not in modules or "full" in change]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise InputError(
            f"the delta changes {', '.join(others[:5])}{more}: a LoRA of PEFT has low-rank changes "
            "of the layers' matrices alone; use --format hf, or train with delta.full=[] and the "
            "default delta.low_rank"
        )

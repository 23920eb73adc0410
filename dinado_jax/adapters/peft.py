"""LoRA deltas in PEFT's folders: adapter_config.json and adapter_model.safetensors.

A module of the base with the adapter has W + scale B A, where W [out, in] is its matrix, A [r, in]
and B [out, r] are tensors of the file. Our kernels are (out, in) too, whatever those of a
checkpoint are; our factors a [in, r] and b [r, out] are A and B transposed.
"""

from pathlib import Path

import jax
import numpy as np

from dinado_jax.adapters.lora import Delta, LoRA
from dinado_jax.adapters.peft_config import PeftConfig, read_peft_config
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
from dinado_jax.models.params import by_path, is_kernel, nested, param_shapes
from dinado_jax.models.protocol import BaseModel
from dinado_jax.utils.files import write_json


def save_adapter(folder: Path, model: BaseModel, lora: LoRA, delta: Delta, base: str) -> None:
    """Writes a delta as a folder that PEFT and `merge_adapter` load.

    Args:
      folder: there already.
      model: of the base.
      lora: the delta's adapter.
      delta: low-rank changes of kernels.
      base: a folder or hub name of the base, for PEFT.

    Raises:
      InputError: for changes that a LoRA of PEFT cannot hold, and for a full disk.
    """
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


def merge_adapter(folder: Path, model: BaseModel, params: dict) -> dict:
    """Merges a LoRA adapter of PEFT into a base, in float32.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors.
      model: of the base.
      params: its parameters, on the host.

    Returns:
      The parameters, the changed ones in float32.

    Raises:
      InputError: as `read_peft_config`; for missing, pickled or damaged weights, and for every
        tensor that is missing, unused or misshapen.
    """
    config, tensors, shapes = (
        read_peft_config(folder),
        read_adapter_weights(folder),
        param_shapes(model),
    )
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

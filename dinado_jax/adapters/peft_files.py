"""Adapters of any kind in PEFT's folders: LoRAs (peft.py), prefixes and prompts.

Prefixes and prompts are arrays of positions, see `models.prefix_folder`.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.adapters.lora import LoRA
from dinado_jax.adapters.peft import merge_adapter, save_adapter
from dinado_jax.adapters.peft_config import LORA, peft_type
from dinado_jax.adapters.prefix import Prefix, Prompt, behind, keys_and_values, with_prefix
from dinado_jax.adapters.protocol import Adapter
from dinado_jax.errors import InputError
from dinado_jax.models.hf_folder import ADAPTER
from dinado_jax.models.params import has_prefix
from dinado_jax.models.prefix_folder import (
    PREFIX,
    read_prefix,
    read_prompt,
    write_prefix,
    write_prompt,
)
from dinado_jax.models.protocol import BaseModel, PrefixModel

ADAPTER_FILES = (ADAPTER, "adapter_model.*")


def write_adapter(
    folder: Path, model: BaseModel, base_params: dict, adapter: Adapter, params: Any, base: str
) -> None:
    """Writes a trained adapter as a folder that PEFT and `apply_adapter` load.

    Args:
      folder: there already.
      model: of the base.
      base_params: of the base.
      adapter: a LoRA, Prefix or Prompt.
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
            save_adapter(folder, model, adapter, params, base)
        case Prefix():
            prefix = np.asarray(adapter.keys_and_values(base_params, params))
            write_prefix(folder, adapter.model, prefix, base)
        case Prompt():
            prompt = np.asarray(adapter.embeddings(base_params, params))
            write_prompt(folder, adapter.model, prompt, base)
        case _:
            raise InputError("its adapter is none of those that peft has")


def apply_adapter(folder: Path, model: BaseModel, params: dict) -> tuple[BaseModel, dict]:
    """Applies an adapter of PEFT to a base, in float32.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors.
      model: of the base.
      params: its parameters, on the host.

    Returns:
      The model, behind a prefix where the adapter is one or a prompt, and its parameters, the
      changed ones in float32.

    Raises:
      InputError: as `merge_adapter`, `read_prefix` and `read_prompt`; for another kind of adapter,
        one that the base's architecture does not take, and a prefix that leaves no room for text.
    """
    kind = peft_type(folder)
    if kind == LORA:
        return model, merge_adapter(folder, model, params)
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

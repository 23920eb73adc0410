"""The architectures, by the `model_type` of a config.json; models of folders, and new ones.

The only module that knows which architectures there are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from dinado_jax.config import schema
from dinado_jax.errors import InputError, quote
from dinado_jax.models import gpt2_checkpoint, llama_checkpoint
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.hf_folder import (
    ADAPTER_WEIGHTS,
    CONFIG,
    PREFIX_CONFIG,
    PREFIX_FOLDER,
    check_tensors,
    locate,
    read_config,
    write_folder,
)
from dinado_jax.models.params import by_path, has_prefix, nested, param_shapes
from dinado_jax.models.prefix_folder import read_positions, read_prefix, write_prefix
from dinado_jax.models.protocol import BaseModel, PrefixModel
from dinado_jax.utils.files import exists


class CheckpointFormat(Protocol):
    """How one architecture stands in a Hugging Face folder: a module with these members."""

    @property
    def KERNELS_IN_OUT(self) -> bool:
        """Whether the tensors of kernels are (in, out)."""
        ...

    def parse_config(self, hf: Mapping[str, Any]) -> BaseModel:
        """The model of a config.json, in float32. InputError for a missing or bad size, and for
        options that would have to be ignored.
        """
        ...

    def to_config(self, model: Any) -> dict[str, Any]:
        """The config.json of a model, without its model_type and dtype."""
        ...

    def read_params(self, folder: Path, model: Any) -> dict:
        """The parameters in a folder: nested dicts of NumPy arrays in their stored dtype.

        Raises:
          InputError: for missing, foreign or damaged files, for every missing, unused, misshapen or
            non-float tensor, and for values that are not finite.
        """
        ...

    def to_tensors(self, params: Mapping, model: Any) -> dict[str, np.ndarray]:
        """The tensors of parameters, by key. The inverse of `read_params`."""
        ...

    def keys(self, model: Any) -> dict[str, str]:
        """The key in `to_tensors` of every parameter, by its path."""
        ...


ARCHITECTURES: dict[str, CheckpointFormat] = {
    "gpt2": gpt2_checkpoint,
    **dict.fromkeys(llama_checkpoint.FAMILIES, llama_checkpoint),
}


def load_model(folder: Path) -> BaseModel:
    """Reads the model of a folder, in float32, from its config.json, and that of its prefix if it
    has one.

    Raises:
      InputError: as `hf_folder.read_config`, `CheckpointFormat.parse_config` and
        `prefix_folder.read_positions`, and for an architecture that is not in the table.
    """
    model = parse_model(read_config(folder), str(Path(folder) / CONFIG))
    if not _has_prefix(folder):
        return model
    _, count, first = read_positions(Path(folder) / PREFIX_FOLDER)
    if (room := model.context_length - 2) < first:
        raise InputError(
            f"{Path(folder) / PREFIX_CONFIG} puts a row's first token at position {first}: the "
            f"model has {model.context_length}, at most {room} of them may be before it"
        )
    return model.replace(prefix=count, first_position=first)


def parse_model(hf: Mapping[str, Any], where: str) -> BaseModel:
    """The model of a config.json's contents, in float32; errors name `where`, see `load_model`."""
    if "model_type" not in hf:
        raise InputError(
            f"no model_type in {where}: give a model's folder, of a run its folder sft/base"
        )
    kind = hf["model_type"]
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = " or ".join(f'"{name}"' for name in ARCHITECTURES)
        raise InputError(f"model_type is {quote(kind)}, {where}: only {known} models are supported")
    return ARCHITECTURES[kind].parse_config(hf)


def load_params(folder: Path, model: BaseModel) -> dict:
    """Reads the parameters of a folder to the host; see `CheckpointFormat.read_params` and
    `prefix_folder.read_prefix`.
    """
    read = ARCHITECTURES[model.model_type].read_params
    if not _has_prefix(folder):
        return read(folder, model)
    params = read(folder, model.replace(prefix=0, first_position=0))
    model = cast(PrefixModel, model)
    prefix = read_prefix(Path(folder) / PREFIX_FOLDER, model)
    parts = np.split(prefix, len(model.prefix_paths), axis=1)
    return nested(by_path(params) | dict(zip(model.prefix_paths, parts, strict=True)))


def _has_prefix(folder: Path) -> bool:
    """Whether a model has a prefix. InputError for one that is not there in full."""
    there = exists(Path(folder) / PREFIX_CONFIG)
    other = Path(folder) / PREFIX_FOLDER
    if not there and exists(other) and (not other.is_dir() or any(other.iterdir())):
        raise InputError(f"no {Path(folder) / PREFIX_CONFIG}: copy the whole folder again")
    return there


def save_model(
    folder: Path, model: BaseModel, params: Mapping, ends: Mapping[str, Any] | None = None
) -> None:
    """Writes a folder that `load_model`, `load_params` and transformers read; other files stay.

    A prefix is a folder in it, `prefix`, which transformers does not read, but PEFT does where rows
    stand behind it. That of a model saved there before is gone.

    Args:
      folder: made if it is not there.
      model: whose parameters they are.
      params: nested dicts of arrays on the host; each keeps its dtype.
      ends: bos_token_id and eos_token_id of the config.json; without them transformers takes the
        architecture's defaults.

    Raises:
      InputError: where `params` does not fit `model`, and for a full disk.
    """
    flat = {path: np.asarray(array) for path, array in by_path(params).items()}
    check_tensors(flat, param_shapes(model), folder)
    checkpoint, prefix = ARCHITECTURES[model.model_type], None
    if has_prefix(params):
        behind = cast(PrefixModel, model)
        prefix = np.concatenate([flat.pop(path) for path in behind.prefix_paths], axis=1)
        model = model.replace(prefix=0, first_position=0)
    largest = max(flat.values(), key=lambda array: array.size)
    config = checkpoint.to_config(model)
    config |= {"model_type": model.model_type, "dtype": largest.dtype.name}
    config |= ends or {}
    write_folder(folder, config, checkpoint.to_tensors(nested(flat), model))
    for earlier in (PREFIX_CONFIG, f"{PREFIX_FOLDER}/{ADAPTER_WEIGHTS}"):
        (folder / earlier).unlink(missing_ok=True)
    if prefix is not None:
        (folder / PREFIX_FOLDER).mkdir(exist_ok=True)
        write_prefix(folder / PREFIX_FOLDER, behind, prefix, first_position=behind.first_position)


def new_model(settings: schema.Base) -> BaseModel:
    """A model to train from scratch, a GPT-2 of the configured sizes and precision."""
    return GPT2(
        GPT2Config(
            vocab_size=settings.vocab_size,
            n_positions=settings.n_positions,
            n_embd=settings.n_embd,
            n_layer=settings.n_layer,
            n_head=settings.n_head,
            param_dtype=settings.param_dtype,
            dtype=settings.dtype,
            remat=settings.remat,
        )
    )


def configured_model(settings: schema.Base) -> BaseModel:
    """The model of a configuration: a new one, or that of `base.path`, of which config.json alone
    is read, or fetched from the hub. InputError as `locate` and `load_model`.
    """
    if not settings.path:
        return new_model(settings)
    return load_model(locate(settings.path, [CONFIG, PREFIX_CONFIG])).replace(
        dtype=settings.dtype, param_dtype=settings.param_dtype, remat=settings.remat
    )

"""A denoiser in a folder: denoiser.json, denoiser.safetensors and its tokenizer.

The record has the sizes of encoder and decoder, the ids that matter and the SHA-256 of the weights.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax import __version__
from dinado_jax.denoising.model import Denoiser
from dinado_jax.denoising.vocabulary import Vocabulary
from dinado_jax.errors import InputError, catch_disk_full
from dinado_jax.models.bert import BertConfig
from dinado_jax.models.codec import Codec
from dinado_jax.models.hf_folder import (
    check_finite,
    check_tensors,
    read_safetensors,
    write_tensors,
)
from dinado_jax.models.params import by_path, nested
from dinado_jax.models.tokenizer import read_tokenizer
from dinado_jax.utils.files import exists, file_digest, read_sealed_record, write_sealed

RECORD, WEIGHTS = "denoiser.json", "denoiser.safetensors"
# Version of the files. Bump it when an older version of the package would misread them.
FORMAT = 1
_FIX = "copy it again, or train it again"
_SCHEMA = {
    "format": int, "version": str, "encoder": dict, "decoder": dict, "vocabulary": dict,
    "max_length": int, "tokenizer": str, "sha256": str,
}  # fmt: skip


def write_denoiser(folder: Path, denoiser: Denoiser, params: dict, codec: Codec) -> None:
    """Writes a denoiser into a folder that is there. InputError for a full disk."""
    tensors = {path: np.asarray(leaf) for path, leaf in by_path(params).items()}
    write_tensors(folder / WEIGHTS, tensors)
    codec.save(folder)
    own = {"format": FORMAT, "version": __version__, "tokenizer": _of_tokenizer(folder)}
    record = dataclasses.asdict(denoiser) | own | {"sha256": file_digest(folder / WEIGHTS)}
    with catch_disk_full(folder):
        write_sealed(folder / RECORD, record)


def read_denoiser(folder: Path) -> tuple[Denoiser, dict, Codec]:
    """Reads what `write_denoiser` wrote; the parameters are on the device.

    Raises:
      InputError: in one line for what is missing, damaged, of a newer version or does not belong
        together.
    """
    path = folder / RECORD
    if not exists(path):
        raise InputError(f"no {RECORD} in {folder}: give a folder that `dinado denoise train` made")
    record = read_sealed_record(path, _SCHEMA, FORMAT, _FIX)
    denoiser = Denoiser(
        BertConfig(**record["encoder"]),
        BertConfig(**record["decoder"]),
        _vocabulary(record["vocabulary"]),
        record["max_length"],
    )
    weights = folder / WEIGHTS
    if not exists(weights) or file_digest(weights) != record["sha256"]:
        raise InputError(f"{weights} is not what {path} was written with: {_FIX}")
    tokenizer = read_tokenizer(folder)
    if _of_tokenizer(folder) != record["tokenizer"]:
        raise InputError(f"the tokenizer in {folder} is not what {path} was written with: {_FIX}")
    tensors = read_safetensors(weights)
    expected = by_path(jax.eval_shape(denoiser.init, jax.random.key(0)))
    check_tensors(tensors, {name: leaf.shape for name, leaf in expected.items()}, folder, RECORD)
    check_finite(tensors, folder)
    dtype = jnp.dtype(denoiser.encoder.param_dtype)
    params = nested({name: np.asarray(tensor, dtype) for name, tensor in tensors.items()})
    codec = Codec(tokenizer, (denoiser.vocabulary.end_id,), denoiser.vocabulary.begin_id)
    return denoiser, jax.device_put(params), codec


def _vocabulary(record: dict[str, Any]) -> Vocabulary:
    ranges = tuple((first, end) for first, end in record["excluded_ids"])
    return Vocabulary(**{**record, "excluded_ids": ranges})


def _of_tokenizer(folder: Path) -> str:
    return file_digest(folder / "tokenizer.json")

"""A recurrence beside its base: BASE/recurrence/recurrence.json and recurrence.safetensors.

The folder is the base's, which `load` and transformers read without it. The record has the
fingerprint of the base that was trained with it, its number of layers and the recurrence's sizes.
"""

from pathlib import Path

import jax
import numpy as np

from dinado_jax import __version__
from dinado_jax.errors import InputError
from dinado_jax.models.hf_folder import (
    check_finite,
    check_tensors,
    fingerprint,
    read_safetensors,
    write_tensors,
)
from dinado_jax.models.protocol import BaseModel, PrefixModel
from dinado_jax.recurrence.module import Params, Recurrence
from dinado_jax.utils.files import exists, file_digest, read_sealed_record, write_sealed

FOLDER, RECORD, WEIGHTS = "recurrence", "recurrence.json", "recurrence.safetensors"
# Version of the files. Bump it when an older version of the package would misread them.
FORMAT = 1
_FIX = "copy it again, or train it again"
_SIZES = ("read", "write", "window", "hidden")
_SCHEMA = {
    "format": int, "version": str, "base": str, "layers": int, "sha256": str,
    **dict.fromkeys(_SIZES, int),
}  # fmt: skip


def write_recurrence(base: Path, recurrence: Recurrence, params: Params) -> None:
    """Writes a recurrence into the folder of its base. InputError for a full disk."""
    folder = base / FOLDER
    folder.mkdir(exist_ok=True)
    write_tensors(folder / WEIGHTS, {name: np.asarray(x) for name, x in params.items()})
    record = {name: getattr(recurrence, name) for name in _SIZES}
    record |= {"format": FORMAT, "version": __version__, "base": fingerprint(base)}
    record |= {"layers": recurrence.model.num_layers, "sha256": file_digest(folder / WEIGHTS)}
    write_sealed(folder / RECORD, record)


def read_recurrence(base: Path, model: BaseModel) -> tuple[Recurrence, Params]:
    """Reads the recurrence in the folder of a base.

    Args:
      base: the folder.
      model: of the base.

    Raises:
      InputError: in one line for what is missing, damaged or of a newer version; for a recurrence
        of another base; for layers that the base lacks and windows longer than its context.
    """
    path = base / FOLDER / RECORD
    if not exists(path):
        raise InputError(f"no {FOLDER}/{RECORD} in {base}: give a folder that Recurrent.save wrote")
    record = read_sealed_record(path, _SCHEMA, FORMAT, _FIX)
    if record["layers"] != model.num_layers:
        raise InputError(
            f"{path} is of a base with {record['layers']} layers, {base} has {model.num_layers}: "
            f"{_FIX}"
        )
    if record["base"] != fingerprint(base):
        raise InputError(f"{path} is of another base than {base}, or that has changed: {_FIX}")
    if not isinstance(model, PrefixModel):
        raise InputError(f"{path} is of another architecture: a {model.model_type} has no memory")
    recurrence = Recurrence(model, **{name: record[name] for name in _SIZES})
    weights = path.with_name(WEIGHTS)
    if not exists(weights) or file_digest(weights) != record["sha256"]:
        raise InputError(f"{weights} is not what {path} was written with: {_FIX}")
    tensors = read_safetensors(weights)
    expected = jax.eval_shape(recurrence.init, jax.random.key(0))
    check_tensors(tensors, {name: x.shape for name, x in expected.items()}, path.parent, RECORD)
    check_finite(tensors, path.parent)
    return recurrence, jax.device_put(tensors)

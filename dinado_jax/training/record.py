"""What a training is of, kept in its folder: another one does not continue it."""

import hashlib
from pathlib import Path

import numpy as np

from dinado_jax.distributed.processes import barrier, is_main
from dinado_jax.errors import InputError
from dinado_jax.models.params import by_path
from dinado_jax.utils.files import exists, read_sealed, write_sealed

_RECORD = "training.json"


def params_digest(params: dict) -> str:
    """SHA-256 of parameters, by path."""
    weights = hashlib.sha256()
    for path, leaf in sorted(by_path(params).items()):
        weights.update(path.encode())
        weights.update(np.asarray(leaf).tobytes())
    return weights.hexdigest()


def keep_record(folder: Path, record: dict) -> None:
    """Writes what a training is of into its folder, training.json, in every process alike.

    Args:
      folder: there already.
      record: JSON values by name.

    Raises:
      InputError: if the folder has a training of which a value is another one.
    """
    path = folder / _RECORD
    if is_main() and not exists(path):
        write_sealed(path, record)
    barrier("the training has a record")
    before = read_sealed(path, f"delete the folder {folder} and train again")
    for name, value in record.items():
        if before.get(name) != value:
            raise InputError(
                f"{folder} has a training with another {name}: give the same, or another folder"
            )

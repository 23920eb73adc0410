"""Trainings that are no stage of a run: their folder, what it is of, and their devices."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dinado_jax.config.schema import Parallel
from dinado_jax.distributed.partitioning import Plan, make_plan
from dinado_jax.distributed.processes import barrier, is_main
from dinado_jax.errors import InputError, quote
from dinado_jax.models.params import by_path
from dinado_jax.utils.files import exists, make_folder, read_sealed, require_new, write_sealed

_Training = TypeVar("_Training")
_RECORD = "training.json"


@contextlib.contextmanager
def training_folder(folder: str | Path | None) -> Iterator[Path]:
    """A context with the folder of a training, made if it is missing; a temporary one for None."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dinado_training_"))
        path = Path(folder)
        make_folder(path)
        yield path


def require_own(out: Path, training: Path) -> None:
    """InputError for a folder of results that holds files, and not of the training in `training`,
    which it would replace. Every process calls it.
    """
    if not exists(training / _RECORD):
        require_new(out)
    barrier("the folder is free")


def require_training(training: Any, kind: type[_Training]) -> _Training:
    """Returns the settings of a training of this kind, its defaults for None. InputError for other
    values, such as the settings of another kind.
    """
    if training is None:
        return kind()
    if type(training) is not kind:
        raise InputError(
            f"training = {quote(training)}: give {kind.__module__}.{kind.__name__}(..)"
        )
    return training


def plan_of(batch: int, plan: Plan | None) -> Plan:
    """The plan of a training, by default that of one device.

    Raises:
      InputError: for a batch that the devices cannot share.
    """
    plan = plan or make_plan(Parallel(devices=1))
    if batch % plan.mesh.size:
        raise InputError(
            f"batch = {batch} cannot be shared by {plan.mesh.size} devices: choose a multiple of "
            f"{plan.mesh.size}"
        )
    return plan


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
                f"{folder} has a training with another {name}: give the same or another folder, "
                "or delete it"
            )

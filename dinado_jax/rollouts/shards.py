"""Rows that are being collected, on disk: a file per batch, so that a stopped collection
continues.
"""

import contextlib
import re
import shutil
from pathlib import Path

import numpy as np

from dinado_jax.distributed.processes import barrier, is_main
from dinado_jax.errors import InputError
from dinado_jax.oracles.judge import Oracle, OracleResult, require_labels
from dinado_jax.rollouts.arrays import Rollouts, RolloutShard, concatenate, select

_FILE = re.compile(r"\d{8,}\.npz(\.partial)?")


def save_shard(shard: RolloutShard, folder: Path, fingerprint: str) -> None:
    """Writes one batch, named after the lowest of its rows."""
    shard.save(folder / f"{shard.row.min():08d}.npz", fingerprint)


def saved_rows(folder: Path, fingerprint: str) -> np.ndarray:
    """The numbers of the rows that are on disk, int64."""
    shards = _load_shards(folder, fingerprint)
    return np.concatenate([np.array([], int), *(shard.row for shard in shards)])


def merge_shards(
    folder: Path, fingerprint: str, count: int, fill: int, oracle: Oracle
) -> RolloutShard:
    """Joins all shards in the order of their rows, without the rows that the oracle failed on.

    Args:
      folder: of the shards.
      fingerprint: what the rows depend on; files of another are ignored.
      count: rows that were to be collected.
      fill: token id to pad with.
      oracle: for messages.

    Raises:
      InputError: if rows are missing, because processes see different folders, or if the oracle
        failed on all of them; they are then discarded, so that a corrected oracle judges them
        again.
    """
    rows = concatenate(_load_shards(folder, fingerprint), fill)
    order = np.argsort(rows.row)
    if not np.array_equal(rows.row[order], np.arange(count)):
        raise InputError(
            f"{len(rows)} rows are here, {count} were to be judged: all processes must see one "
            "run folder, put run.folder on a file system they share"
        )
    if (rows.error != "").all():
        discard_shards(folder)
    require_labels(oracle, OracleResult(rows.label, rows.error))
    return select(rows, order[rows.error[order] == ""])


def _load_shards(folder: Path, fingerprint: str) -> list[RolloutShard]:
    """The shards in a folder; damaged ones, and those of another fingerprint, count as absent."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with contextlib.suppress(InputError):
            found.append(RolloutShard.load(path, fingerprint))
    return found


def save_once(rollouts: Rollouts, path: Path, fingerprint: str = "") -> None:
    """Process 0 writes what all processes have collected; all wait for it."""
    if is_main():
        rollouts.save(path, fingerprint)
    barrier(f"{path.name} is written")


def discard_shards(folder: Path) -> None:
    """Removes a folder of shards once all processes have read it. It is renamed first: whatever
    interrupts the removal, no part of it is taken for work again.
    """
    barrier(f"{folder.name} are read")
    if is_main():
        forgotten = folder.with_name(f"forgotten_{folder.name}")
        shutil.rmtree(forgotten, ignore_errors=True)
        folder.rename(forgotten)
        remove_shards(forgotten)


def remove_shards(folder: Path) -> None:
    """Removes the shards in a folder; a file that no stage wrote stays, and the folder with it."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.name == "base":  # of a mixture
            remove_shards(entry)
        elif _FILE.fullmatch(entry.name):
            entry.unlink()
    if not any(folder.iterdir()):
        shutil.rmtree(folder)

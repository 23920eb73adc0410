"""States of the frozen base on rollouts, kept on disk: training then skips what lies below them.

N rows, T tokens, D width.
"""

import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dinado_jax.data.batch import Batch
from dinado_jax.data.batching import take
from dinado_jax.data.sequences import Sequences
from dinado_jax.distributed.partitioning import Plan, local_mesh, shard_rows
from dinado_jax.distributed.processes import (
    barrier,
    broadcast,
    lockstep,
    process_count,
    process_index,
)
from dinado_jax.language_model import Base
from dinado_jax.models.protocol import Model
from dinado_jax.utils.files import file_digest, write_text
from dinado_jax.utils.progress import Progress

_PREFIX = "base_states_"  # of the files' names
_OURS = re.compile(
    rf"{_PREFIX}(layer_\d+_)?(float32|bfloat16)_[0-9a-f]{{8}}\.(bin|sha256)(\.partial)?"
)


@dataclasses.dataclass(frozen=True)
class HiddenStates:
    """States of some rows, by sets of rows that were added one after another."""

    width: int
    values: tuple[np.ndarray, ...] = ()  # [tokens, D] of each set, row after row, memory-mapped
    starts: tuple[np.ndarray, ...] = ()  # int64 [N + 1] of each set: where its rows begin

    def __add__(self, other: "HiddenStates") -> "HiddenStates":
        return HiddenStates(self.width, self.values + other.values, self.starts + other.starts)

    def take(self, index: np.ndarray, columns: int) -> np.ndarray:
        """[B, columns, D] of the rows numbered `index` [B], zeros beyond a row's end."""
        ends = np.cumsum([len(starts) - 1 for starts in self.starts])
        out = np.zeros((len(index), columns, self.width), self.values[0].dtype)
        for place, row, of in zip(out, index, np.searchsorted(ends, index, side="right")):
            starts = self.starts[of]
            number = row - (ends[of] - len(starts) + 1)
            found = self.values[of][starts[number] : starts[number + 1]]
            place[: len(found)] = found
        return out


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5))
def _states(model, mesh, params, tokens, dtype, layer):
    def states(params, tokens):
        out = model.apply({"params": params}, tokens)
        return (out.inputs[layer] if layer else out.hidden).astype(dtype)

    return shard_rows(mesh, states, (params,), (tokens,))


@dataclasses.dataclass(frozen=True)
class _Share:
    """The rows whose states one process makes, and the file that holds them, row after row."""

    rows: Sequences
    starts: np.ndarray  # int64 [N + 1], where each row's tokens begin
    path: Path
    dtype: np.dtype
    width: int
    layer: int

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.starts[-1]), self.width

    @property
    def seal(self) -> Path:
        """Holds the SHA-256 of the file."""
        return self.path.with_suffix(".sha256")

    @property
    def made(self) -> bool:
        size = self.shape[0] * self.width * self.dtype.itemsize
        there = self.path.exists() and self.seal.exists() and self.path.stat().st_size == size
        return there and self.seal.read_text(encoding="utf-8") == file_digest(self.path)


def _shares(folder: Path, rows: Sequences, dtype: str, width: int, layer: int) -> list[_Share]:
    """One for each process, in their order; fewer where there are fewer rows. A file is named after
    the layer and its rows' tokens.
    """
    shares, prefix = [], f"{_PREFIX}layer_{layer}_" if layer else _PREFIX
    for part in np.array_split(np.arange(len(rows)), min(process_count(), len(rows))):
        tokens, prompt_length, length = (
            values[part] for values in (rows.tokens, rows.prompt_length, rows.length)
        )
        checksum = zlib.crc32(length.tobytes(), zlib.crc32(tokens.tobytes()))
        starts = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
        path = folder / f"{prefix}{dtype}_{checksum:08x}.bin"
        own = Sequences(tokens, prompt_length, length)
        shares.append(_Share(own, starts, path, jnp.dtype(dtype), width, layer))
    return shares


def base_states(
    folder: Path,
    base: Base,
    rows: Sequences,
    dtype: str,
    batch: int,
    plan: Plan,
    *,
    layer: int = 0,
) -> HiddenStates:
    """The states of these rows, from files in `folder`, a share of the rows each. All processes
    call it together; each makes its own file if that is not there.

    Args:
      base: placed by the plan.
      dtype: float32 | bfloat16, of the files; half of the bytes, rounded to 8 bits.
      batch: rows that a process computes at once, shared out to its devices.
      plan: of the run.
      layer: the states are those that enter this layer; 0 for the last hidden ones.
    """
    width = base.model.width
    shares = _shares(folder, rows, dtype, width, layer)
    if not broadcast(all(share.made for share in shares)):
        params = plan.gather(base.params)
        mine = [share for share in shares[process_index() : process_index() + 1] if not share.made]
        with Progress("states of the base", sum(len(s.rows) for s in mine), "row") as progress:
            for size in lockstep(
                size
                for share in mine
                for size in _made(share, base.model, params, batch, local_mesh(plan))
            ):
                progress.advance(size)
        barrier("the states of the base are made")
    values = tuple(np.memmap(s.path, s.dtype, "r", shape=s.shape) for s in shares)
    return HiddenStates(width, values, tuple(share.starts for share in shares))


def _made(share: _Share, model: Model, params: dict, batch: int, mesh: Mesh) -> Iterator[int]:
    """Makes a share's file, whole or not at all; yields the rows of each batch that is written.

    By ordinary writes: through a memory map a full disk would end the process without a word.
    """
    rows, batch = share.rows, max(1, batch // mesh.size) * mesh.size
    order = np.argsort(rows.length, kind="stable")
    partial = share.path.with_name(share.path.name + ".partial")
    with partial.open("wb") as file:
        for start in range(0, len(rows), batch):
            part = order[start : start + batch]
            tokens = take(rows, np.resize(part, batch)).tokens
            found = np.asarray(_states(model, mesh, params, tokens, share.dtype, share.layer))
            for row, states in zip(part, found):
                file.seek(int(share.starts[row]) * states[0].nbytes)
                file.write(states[: rows.length[row]].tobytes())
            yield len(part)
    partial.replace(share.path)
    write_text(share.seal, file_digest(share.path))


def with_states(
    batch_at: Callable[[int], Any], states: HiddenStates, parts: tuple[str, ...]
) -> Callable[[int], Any]:
    """Batches whose rows carry the base's states, [B, T, D].

    Args:
      batch_at: the batch of a step.
      states: of all rows that batches are drawn from.
      parts: the fields of a batch to fill; ("",) for a batch without parts, () for none.
    """

    def filled(batch: Batch) -> Batch:
        rows = states.take(np.asarray(batch.row), batch.tokens.shape[1])
        return dataclasses.replace(batch, states=rows)

    def at(step: int) -> Any:
        batch = batch_at(step)
        if parts == ("",):
            return filled(batch)
        return dataclasses.replace(batch, **{name: filled(getattr(batch, name)) for name in parts})

    return at


def delete_files(folder: Path) -> None:
    """Removes the files that `base_states` made."""
    for path in folder.glob(f"{_PREFIX}*"):
        if _OURS.fullmatch(path.name):
            path.unlink()

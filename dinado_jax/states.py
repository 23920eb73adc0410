"""Last hidden states of the frozen base on rollouts, kept on disk: training then skips its trunk.

N rows, T tokens, D width.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dinado_jax import signals
from dinado_jax.base import Base
from dinado_jax.data import take
from dinado_jax.parallel import over_rows, spread
from dinado_jax.processes import count, first, meet
from dinado_jax.progress import Progress
from dinado_jax.text import Sequences

PREFIX = "base_states_"  # of the files' names


@dataclasses.dataclass(frozen=True)
class States:
    """States of some rows, by sets of rows that were added one after another."""

    width: int
    values: tuple[np.ndarray, ...] = ()  # [tokens, D] of each set, row after row, memory-mapped
    starts: tuple[np.ndarray, ...] = ()  # int64 [N + 1] of each set: where its rows begin

    def __add__(self, other: "States") -> "States":
        return States(self.width, self.values + other.values, self.starts + other.starts)

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


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _hidden(model, mesh, params, tokens, dtype):
    def states(params, tokens):
        return model.apply({"params": params}, tokens).hidden.astype(dtype)

    return over_rows(mesh, states, (params,), (tokens,))


def base_states(
    folder: Path, base: Base, rows: Sequences, dtype: str, batch: int, mesh: Mesh | None = None
) -> States:
    """The states of these rows, from a file in `folder`, which process 0 makes if it is not there.

    Args:
      rows: the file is named after their tokens.
      dtype: float32 | bfloat16, of the file; half of the bytes, rounded to 8 bits.
      batch: rows computed at once, shared out to the devices of a mesh.
    """
    width, kind = base.model.config.n_embd, jnp.dtype(dtype)
    starts = np.concatenate([[0], np.cumsum(rows.length, dtype=np.int64)])
    shape = int(starts[-1]), width
    mark = zlib.crc32(rows.length.tobytes(), zlib.crc32(rows.tokens.tobytes()))
    path = folder / f"{PREFIX}{dtype}_{mark:08x}.bin"
    size = shape[0] * width * kind.itemsize
    if first() and not (path.exists() and path.stat().st_size == size):
        partial = path.with_name(path.name + ".partial")
        with (
            Progress("states of the base", len(rows), "row") as progress,
            partial.open("wb") as file,
        ):
            _write(file, starts, base, rows, kind, batch, mesh, progress.advance)
        partial.replace(path)
    meet(f"{path.name} is made")
    return States(width, (np.memmap(path, kind, "r", shape=shape),), (starts,))


def _write(file: BinaryIO, starts, base, rows, kind, batch, mesh, advance: Callable[[int], None]):
    """By ordinary writes: through a memory map a full disk would end the process without a word."""
    devices, params = mesh.size if mesh else 1, spread(mesh, base.params)
    batch = max(1, batch // devices) * devices
    order = np.argsort(rows.length, kind="stable")
    for start in range(0, len(rows), batch):
        part = order[start : start + batch]
        tokens = take(rows, np.resize(part, batch))["tokens"]
        found = np.asarray(_hidden(base.model, mesh, params, tokens, kind))
        for row, states in zip(part, found):
            file.seek(int(starts[row]) * states[0].nbytes)
            file.write(states[: rows.length[row]].tobytes())
        advance(len(part))
        if count() == 1:  # others would wait for what never comes
            signals.stop_here()

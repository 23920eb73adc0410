"""Rollouts: sampled sequences with labels and proposal log-probabilities, as fixed-shape arrays."""

import dataclasses
import hashlib
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dinado_jax.data.batch import rows_of
from dinado_jax.data.sequences import Sequences
from dinado_jax.errors import InputError, one_line, os_error
from dinado_jax.utils.files import check_regular, exists

_CONDITION = "condition/"  # of arrays in a file that belong to it
_AGAIN = "delete the stage's folder and run it again"


Rows = TypeVar("Rows", bound="Rollouts")


@dataclasses.dataclass(frozen=True)
class Rollouts(Sequences):
    """N judged rows. A reference was written by people: its log_proposal is nan.

    log_base and log_proposal are sums over the target's tokens, in nats: under p, and under the
    distribution d that the row was drawn from (temperature, truncation and mixture included). Of a
    particle p / d is its weight, and nothing is known of its prefixes. In files a condition is a
    nested dict of arrays of numbers, with one row per rollout each.
    """

    label: np.ndarray  # float32 [N], the oracle's judgement in [0, 1]
    log_base: np.ndarray  # float32 [N]
    log_proposal: np.ndarray  # float32 [N]
    log_prefix: np.ndarray  # float32 [N, T-1], log p / d of the prefix before column t's token;
    # nan for particles
    prompt_id: np.ndarray  # int32 [N]
    finished: np.ndarray  # bool [N], false for rows cut at the length limit
    round: np.ndarray  # int32 [N], of training that drew the row; 0 for the base's

    @property
    def reference(self) -> np.ndarray:
        """bool [N], whether a row is a reference."""
        return np.isnan(self.log_proposal)

    @property
    def particle(self) -> np.ndarray:
        """bool [N], whether a row is a particle."""
        return np.isnan(self.log_prefix[:, 0])

    def save(self, path: Path, fingerprint: str = "") -> None:
        """Writes an .npz atomically, with a digest of its arrays.

        Args:
          path: of the file.
          fingerprint: identifies what the rows depend on; `load` can ask for it.
        """
        arrays = {name: getattr(self, name) for name in _columns(type(self))}
        arrays |= _flat(self.condition)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays, fingerprint=fingerprint, digest=_digest(arrays, fingerprint))
        partial.replace(path)

    @classmethod
    def load(
        cls, path: Path, fingerprint: str | None = None, vocab_size: int = 2**31
    ) -> "Rollouts":
        """Reads what `save` wrote.

        Args:
          path: of the file.
          fingerprint: that it must have been saved with; None: any.
          vocab_size: that token ids must lie in.

        Raises:
          InputError: the file is missing, damaged, changed or of another fingerprint, or its arrays
            cannot have been collected.
        """
        if not exists(path) or path.is_dir():
            raise InputError(f"no rollouts in {path}: {_AGAIN}")
        check_regular(path)
        # What zipfile and NumPy raise for wrong bytes; RuntimeError where they look encrypted.
        damage = (EOFError, KeyError, TypeError, ValueError, RuntimeError, MemoryError)
        try:
            with path.open("rb") as file:
                _check_headers(cls, file)
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    names = [*_columns(cls), *filter(_is_condition, arrays.files)]
                    found = {name: arrays[name] for name in names}
                    saved = str(arrays["fingerprint"])
                    whole = str(arrays["digest"]) == _digest(found, saved) and fingerprint in (
                        None,
                        saved,
                    )
        except PermissionError as error:
            raise os_error(path, error) from error
        except (*damage, OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise InputError(
                f"cannot read the rollouts in {path} ({one_line(error)[:80]}): {_AGAIN}"
            ) from error
        if not whole:
            raise InputError(
                f"the rollouts in {path} are not as they were written, or belong to another run: "
                f"put the file back, or {_AGAIN}"
            )
        columns = {name: found[name] for name in _columns(cls)}
        rows = cls(**columns, condition=_nested(found))
        if invalid := _invalid(rows, vocab_size):
            raise InputError(f"the rollouts in {path} are none ({invalid}): {_AGAIN}")
        return rows


def _digest(arrays: dict[str, np.ndarray], fingerprint: str) -> str:
    """SHA-256 of named arrays and a fingerprint."""
    total = hashlib.sha256(fingerprint.encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype.str} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


@dataclasses.dataclass(frozen=True)
class RolloutShard(Rollouts):
    """Rows that are being collected: those of one batch."""

    row: np.ndarray  # int64 [N], their numbers among all rows of the collection
    error: np.ndarray  # str [N], what the oracle raised, else ""; with an error the label is nan


# Kind of dtype and number of axes of each array in a file.
_LAYOUT = {
    "tokens": ("int32", 2),
    "prompt_length": ("int32", 1),
    "length": ("int32", 1),
    "label": ("float32", 1),
    "log_base": ("float32", 1),
    "log_proposal": ("float32", 1),
    "log_prefix": ("float32", 2),
    "prompt_id": ("int32", 1),
    "finished": ("bool", 1),
    "round": ("int32", 1),
    "row": ("int64", 1),
    "error": ("str", 1),
}


def _check_headers(kind: type, file: BinaryIO) -> None:
    """Checks dtypes, ranks and sizes before memory is allocated for the arrays.

    Raises:
      ValueError: naming the array.
    """
    with zipfile.ZipFile(file) as archive:
        stored = [name.removesuffix(".npy") for name in archive.namelist()]
        for name in [*_columns(kind), *filter(_is_condition, stored)]:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as array:
                if np.lib.format.read_magic(array) != (1, 0):
                    raise ValueError(f"{name} has another format")
                shape, _, dtype = np.lib.format.read_array_header_1_0(array)
                there = member.file_size - array.tell()
            if _is_condition(name):
                wanted, axes = dtype, max(1, len(shape))  # of any rank except 0
                if dtype.kind not in "biuf":
                    raise ValueError(f"{name} is {dtype}, not numbers")
            else:
                wanted, axes = _LAYOUT[name]
            if dtype != wanted and not (wanted == "str" and dtype.kind == "U"):
                raise ValueError(f"{name} is {dtype}, not {wanted}")
            if len(shape) != axes or math.prod(shape) * dtype.itemsize != there:
                raise ValueError(f"{name} of shape {shape} in {there} bytes")


def _invalid(rows: Rollouts, vocab_size: int) -> str:
    """Says what makes it impossible that these rows were collected; "" if nothing does."""
    count, width = rows.tokens.shape
    for name in _columns(type(rows)):
        shape = getattr(rows, name).shape
        wanted = {"tokens": (count, width), "log_prefix": (count, width - 1)}
        if shape != wanted.get(name, (count,)):
            return f"{name} of shape {shape} beside tokens of {count, width}"
    for name, leaf in _flat(rows.condition).items():
        if leaf.shape[:1] != (count,):
            return f"{name} of shape {leaf.shape} beside {count} rows"
    judged = rows.error == "" if isinstance(rows, RolloutShard) else np.ones(count, bool)
    checks = {
        "no rows": count > 0,
        "token ids outside the vocabulary": (rows.tokens >= 0) & (rows.tokens < vocab_size),
        "prompts without a token": rows.prompt_length >= 1,
        "rows without a target": rows.prompt_length < rows.length,
        "rows longer than their tokens": rows.length <= width,
        "labels outside [0, 1]": (rows.label[judged] >= 0) & (rows.label[judged] <= 1),
        "log_base that is not finite": np.isfinite(rows.log_base),
        "log_proposal that is infinite": ~np.isinf(rows.log_proposal),
        "log_prefix that is not finite": _known_prefixes(rows),
        "negative numbers of prompts": rows.prompt_id >= 0,
    }
    return next((what for what, holds in checks.items() if not np.all(holds)), "")


def _known_prefixes(rows: Rollouts) -> np.ndarray:
    """bool [N, T-1], whether log_prefix is finite, or nan throughout a particle."""
    inside = np.arange(rows.log_prefix.shape[1]) < rows.length[:, None] - 1
    unknown = np.isnan(rows.log_prefix) | ~inside
    return np.where(rows.particle[:, None], unknown, np.isfinite(rows.log_prefix))


def _columns(kind: type) -> list[str]:
    """The names of the plain arrays of a kind of rows."""
    return [field.name for field in dataclasses.fields(kind) if field.name != "condition"]


def _is_condition(name: str) -> bool:
    return name.startswith(_CONDITION)


def condition_digest(condition: Any) -> str:
    """SHA-256 of a condition's arrays and their names."""
    return _digest(_flat(condition), "")


def _flat(condition: Any) -> dict[str, np.ndarray]:
    """The leaves of a condition, nested dicts of arrays, by their names in a file."""
    if condition is None:
        return {}
    leaves = flatten_dict(condition, sep="/")
    return {_CONDITION + path: np.asarray(leaf) for path, leaf in leaves.items()}


def _nested(arrays: dict[str, np.ndarray]) -> dict | None:
    """The inverse of `_flat`."""
    found = {k.removeprefix(_CONDITION): v for k, v in arrays.items() if _is_condition(k)}
    return unflatten_dict(found, sep="/") if found else None


def select(rows: Rows, index: np.ndarray) -> Rows:
    """Gathers the rows numbered `index`, in its order."""
    kind = type(rows)
    columns = {name: getattr(rows, name)[index] for name in _columns(kind)}
    return kind(**columns, condition=rows_of(rows.condition, index))


def concatenate(parts: list[Rows], fill: int) -> Rows:
    """Joins rows of one kind; narrower token arrays are padded with the token id `fill`."""
    width = max(part.tokens.shape[1] for part in parts)

    def column(name):
        arrays = [getattr(part, name) for part in parts]
        if name in ("tokens", "log_prefix"):
            columns = width - (name == "log_prefix")
            value = fill if name == "tokens" else 0
            arrays = [
                np.pad(a, ((0, 0), (0, columns - a.shape[1])), constant_values=value)
                for a in arrays
            ]
        return np.concatenate(arrays)

    kind = type(parts[0])
    condition = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(p.condition for p in parts))
    return kind(**{name: column(name) for name in _columns(kind)}, condition=condition)

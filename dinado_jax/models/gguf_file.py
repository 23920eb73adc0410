"""GGUF files: metadata and tensors, whatever model they are of (see models/gguf_checkpoint.py).

The header is parsed here, because the reader of the `gguf` package trusts the counts in a file and
takes seconds for a vocabulary. `gguf` dequantises.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import dataclasses
import math
import mmap
import struct
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dinado_jax.errors import InputError, escape, one_line, os_error, quote
from dinado_jax.utils.files import check_regular

_AGAIN = "copy or download it again"
_OTHER = "choose another file, or a folder with safetensors"
# Types of metadata, by their codes in `struct`.
_SCALARS = dict(enumerate("BbHhIif?")) | dict(enumerate("Qqd", 10))
_STRING, _ARRAY = 8, 9  # the other types of metadata
_LARGEST = 2**24  # values of an array, tensors, characters: no model here has as many
_ALIGNMENT = 32  # bytes, where a file does not say
_CHUNK = 2**19  # values dequantised at once: by rows, as gguf does, is up to ten times slower


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is in a file; `kind` is the number of its quantisation."""

    shape: tuple[int, ...]
    kind: int
    start: int  # byte of the file
    size: int  # in bytes


@dataclasses.dataclass(frozen=True)
class GGUF:
    """The header of a file, and its bytes, of which nothing is read before it is asked for."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    data: mmap.mmap

    @property
    def architecture(self) -> str:
        """`model_type` of the model, which GGUF names the same."""
        return self.metadata["general.architecture"]

    def get(self, name: str, default: Any = None) -> Any:
        """Metadata under the architecture's name."""
        return self.metadata.get(f"{self.architecture}.{name}", default)


def read_gguf(path: Path) -> GGUF:
    """Reads the header of a file.

    Raises:
      InputError: for what is not a GGUF file of version 2 or 3, or is truncated or damaged.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
            data = None if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise os_error(path, error) from error
    if data is None or data[:4] != b"GGUF":
        raise InputError(f"not a GGUF file, {path}: {_AGAIN}, or name another")
    cursor = _Cursor(data, path)
    cursor.take("4s")
    version = cursor.take("I")
    if version not in (2, 3):
        what = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
        raise InputError(f"a {what} GGUF file, {path}: convert it to version 3, little-endian")
    tensors, entries = cursor.count(), cursor.count()
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.string()
        if key in metadata:
            raise cursor.damaged(f"{quote(key)} is there twice")
        metadata[key] = cursor.value(cursor.take("I"))
    return GGUF(path, metadata, _tensors(cursor, tensors, metadata), data)


class _Cursor:
    """Reads a header from its begin to its end. InputError where the file ends before, or where a
    count is absurd.
    """

    def __init__(self, data: mmap.mmap, path: Path):
        self.data, self.path, self.position = data, path, 0

    def damaged(self, what: str) -> InputError:
        return InputError(f"a damaged GGUF file, {self.path}, {what}: {_AGAIN}")

    def skip(self, size: int) -> int:
        """Moves on by so many bytes. Returns the position before."""
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise InputError(f"a truncated GGUF file, {self.path}, ends in its header: {_AGAIN}")
        return start

    def take(self, code: str) -> Any:
        """A scalar, by its code in `struct`."""
        return struct.unpack_from(f"<{code}", self.data, self.skip(struct.calcsize(f"<{code}")))[0]

    def count(self) -> int:
        number = self.take("Q")
        if number > _LARGEST:
            raise self.damaged(f"has a count of {number:,}")
        return number

    def string(self) -> str:
        size = self.count()
        start = self.skip(size)
        try:
            return self.data[start : self.position].decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"has text that is not UTF-8 at byte {start}") from error

    def value(self, kind: int) -> Any:
        """A scalar, a string, or a list of them."""
        if kind != _ARRAY:
            return self.values(kind, 1)[0]
        kind = self.take("I")
        return self.values(kind, self.count())

    def values(self, kind: int, count: int) -> list:
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:  # arrays of arrays too, which llama.cpp refuses
            raise self.damaged(f"has metadata of type {kind}")
        code = f"<{count}{_SCALARS[kind]}"
        return list(struct.unpack_from(code, self.data, self.skip(struct.calcsize(code))))


def _tensors(cursor: _Cursor, count: int, metadata: Mapping) -> dict[str, TensorInfo]:
    gguf, found, total = gguf_package(cursor.path), {}, 0
    placed = []  # before the position is known from which offsets count
    for _ in range(count):
        name = cursor.string()
        rank = cursor.take("I")
        if not 1 <= rank <= 4:
            raise cursor.damaged(f"{quote(name)} has {rank} dimensions")
        shape = tuple(cursor.take("Q") for _ in range(rank))[::-1]
        placed.append((name, shape, cursor.take("I"), cursor.take("Q")))
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise cursor.damaged(f"has general.alignment = {quote(alignment)}")
    begin = -(-cursor.position // alignment) * alignment
    for name, shape, kind, offset in placed:
        if kind not in gguf.GGML_QUANT_SIZES:
            known = "gguf knows none of that number"
            raise InputError(f"{quote(name)} has quantisation {kind}, {cursor.path}: {known}")
        block, block_size = gguf.GGML_QUANT_SIZES[kind]
        size = math.prod(shape) // block * block_size
        if name in found or min(shape) < 1 or shape[-1] % block or offset % alignment:
            raise cursor.damaged(f"tensor {quote(name)}, {shape} at byte {offset}")
        if begin + offset + size > len(cursor.data):
            raise InputError(
                f"a truncated GGUF file, {cursor.path}, ends before the end of {quote(name)}: "
                f"{_AGAIN}"
            )
        found[name] = TensorInfo(shape, kind, begin + offset, size)
        total += size
    # A small file must not unfold to a large one.
    if total > len(cursor.data):
        raise cursor.damaged("has tensors that overlap")
    return found


def dequantize(file: GGUF, name: str) -> np.ndarray:
    """Reads a tensor: a quantised one as float32, another as it is.

    Raises:
      InputError: for a quantisation that `gguf` cannot undo.
    """
    gguf, info = gguf_package(file.path), file.tensors[name]
    kind = gguf.GGMLQuantizationType(info.kind)
    raw = np.frombuffer(file.data, np.uint8, info.size, info.start)
    plain = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}.get(kind.name)
    if plain is not None:
        # A copy: the file may change, or go, while the model is in use.
        return raw.view(plain).reshape(info.shape).copy()
    blocks = raw.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    tensor = np.empty(info.shape, np.float32)
    parts = np.array_split(blocks, -(-tensor.size // _CHUNK))
    values = np.array_split(tensor.reshape(len(blocks), -1), len(parts))
    try:
        with np.errstate(all="ignore"):  # scales that are not finite are found by `check_finite`
            for part, out in zip(parts, values):
                out[...] = gguf.dequantize(part.reshape(1, -1), kind).reshape(out.shape)
    except NotImplementedError:
        raise InputError(
            f"{escape(name)} has quantisation {kind.name}, {file.path}: gguf cannot dequantise "
            f"it, {_OTHER}"
        ) from None
    except Exception as error:
        raise InputError(
            f"{escape(name)} of quantisation {kind.name} cannot be read, {file.path} "
            f"({one_line(error)}): {_AGAIN}"
        ) from error
    return tensor


def gguf_package(path: Path) -> types.ModuleType:
    """The package `gguf`. InputError, which names the file that needs it, if it is missing."""
    try:
        import gguf
    except ImportError:
        raise InputError(f"a GGUF file, {path}, needs the package gguf: pip install gguf") from None
    return gguf

"""GGUF files by their bytes: every bad one is refused in one line."""

import os
import struct
import sys

import gguf
import numpy as np
import pytest
from support import gguf_files
from support.refusal import error_of

from dinado_jax.errors import InputError
from dinado_jax.models.gguf_checkpoint import read_config, read_tensors
from dinado_jax.models.gguf_file import read_gguf


@pytest.fixture
def path(tmp_path):
    return gguf_files.tiny(tmp_path / "model.gguf")


# Magic, version, tensors, metadata; then entries; then tensors.


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def header(entries=(), tensors=(), version=3, magic=b"GGUF", counts=None) -> bytes:
    counts = counts or (len(tensors), len(entries))
    start = magic + struct.pack("<IQQ", version, *counts)
    return start + b"".join(entries) + b"".join(tensors)


def entry(key, kind, data) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def info(name="token_embd.weight", shape=(32, 4), kind=0, offset=0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


LLAMA = entry("general.architecture", 8, text("llama"))
ROOM = bytes(2048)
BYTES = {
    "empty": (b"", "not a GGUF file"),
    "other magic": (header(magic=b"PK\x03\x04"), "not a GGUF file"),
    "short magic": (b"GG", "not a GGUF file"),
    "version 1": (header(version=1), "a version 1 GGUF file"),
    "version 4": (header(version=4), "a version 4 GGUF file"),
    "big-endian": (header(version=3 << 24), "a big-endian GGUF file"),
    "no architecture": (header(), "general.architecture is None"),
    "absurd entries": (header(counts=(0, 2**60)), "damaged.*count of 1,152"),
    "absurd tensors": (header([LLAMA], counts=(2**50, 1)), "damaged.*count of 1,125"),
    "more entries": (header([LLAMA], counts=(0, 9)), "truncated.*ends in its header"),
    "absurd text": (header([struct.pack("<Q", 2**40)], counts=(0, 1)), "damaged.*count of"),
    "long text": (header([struct.pack("<Q", 2**20)], counts=(0, 1)), "truncated"),
    "absurd array": (
        header([entry("x", 9, struct.pack("<IQ", 0, 2**62))]),
        "damaged.*count of",
    ),
    "long array": (header([entry("x", 9, struct.pack("<IQ", 12, 2**24))]), "truncated"),
    "long array of texts": (header([entry("x", 9, struct.pack("<IQ", 8, 2**24))]), "truncated"),
    "nested array": (header([entry("x", 9, struct.pack("<IQ", 9, 1))]), "metadata of type 9"),
    "unknown type": (header([entry("x", 99, b"")]), "metadata of type 99"),
    "a key twice": (header([LLAMA, LLAMA]), "'general.architecture' is there twice"),
    "not UTF-8": (header([entry(b"\xff", 0, b"\0")]), "not UTF-8 at byte 32"),
    "no dimensions": (header([LLAMA], [info(shape=())]), "has 0 dimensions"),
    "many dimensions": (header([LLAMA], [info(shape=(1,) * 9)]), "has 9 dimensions"),
    "a size of zero": (header([LLAMA], [info(shape=(32, 0))]) + ROOM, "damaged.*token_embd"),
    "absurd sizes": (header([LLAMA], [info(shape=(2**63, 2**63))]) + ROOM, "truncated"),
    "not a whole block": (header([LLAMA], [info(shape=(31, 4), kind=2)]) + ROOM, "damaged"),
    "unaligned": (header([LLAMA], [info(offset=3)]) + ROOM, "damaged.*at byte 3"),
    "a tensor twice": (header([LLAMA], [info(), info(offset=512)]) + ROOM, "damaged"),
    "overlap": (header([LLAMA], [info(name=f"t{i}") for i in range(9)]) + ROOM, "overlap"),
    "far away": (header([LLAMA], [info(offset=2**62)]) + ROOM, "truncated.*token_embd"),
    "unknown quantisation": (header([LLAMA], [info(kind=250)]) + ROOM, "has quantisation 250"),
}


@pytest.mark.parametrize("case", BYTES)
def test_bad_bytes_are_one_line(tmp_path, case):
    data, message = BYTES[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_a_big_endian_file_of_the_writer(tmp_path):
    values, endian = gguf_files.metadata(), gguf.GGUFEndian.BIG
    path = gguf_files.write(tmp_path / "x.gguf", values, {}, endian=endian)
    assert "a big-endian GGUF file" in error_of(read_gguf, path)


def test_a_file_cut_off_anywhere_is_refused(path):
    data = path.read_bytes()
    begin = min(info.start for info in read_gguf(path).tensors.values())
    cuts = [*range(0, begin, 19), *range(begin, len(data), 9999), len(data) - 33]
    for cut in cuts:
        path.write_bytes(data[:cut])
        assert "not a GGUF file" in (message := error_of(read_gguf, path)) or "trunc" in message


def test_a_header_with_a_wrong_byte_is_read_or_refused(path):
    data = path.read_bytes()
    begin = min(info.start for info in read_gguf(path).tensors.values())
    rng = np.random.default_rng(0)
    refused = 0
    for place, value in zip(rng.integers(0, begin, 150), rng.integers(0, 256, 150)):
        path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
        try:
            read_tensors(path)
        except InputError:
            refused += 1
    assert refused > 50


def test_a_pipe_or_a_missing_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "a pipe or a device" in error_of(read_gguf, tmp_path / "pipe.gguf")
    assert "no such file" in error_of(read_gguf, tmp_path / "gone.gguf").lower()


def test_without_the_package_gguf(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "needs the package gguf: pip install gguf" in error_of(read_config, path)

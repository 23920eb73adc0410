"""Readers of files: odd input of every kind is told in one line, and nothing hangs."""

import dataclasses
import errno
import json
import os

import pytest

from dinado_jax.errors import InputError, os_error
from dinado_jax.evaluation.samples import read_samples
from dinado_jax.utils.files import (
    exists,
    file_digest,
    parse_json,
    parse_toml,
    read_json,
    read_lines,
    read_text,
    validate,
)

DEEP = 100_000


def refused(match, function, *args):
    """Asserts that the call is bad input, told in one short printable line that matches."""
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600
    return message


# Shapes of JSON values


RECORD = {"figures": dict, "seconds": float, "names": [str], "inner": {"count": (int, type(None))}}
WHOLE = {"figures": {}, "seconds": 3, "names": ["a"], "inner": {"count": None}, "more": 1}


def test_what_has_the_shape_comes_back():
    assert validate(WHOLE, RECORD, "here", "again") is WHOLE
    assert (
        validate(WHOLE | {"seconds": 0.5, "names": []}, RECORD, "here", "again")["seconds"] == 0.5
    )


@pytest.mark.parametrize(
    "change, told",
    [
        ({"figures": None}, "figures is None, not an object"),
        ({"figures": "text"}, "figures is 'text', not an object"),
        ({"seconds": "3"}, "seconds is '3', not a number"),
        ({"seconds": True}, "seconds is True, not a number"),
        ({"names": "a"}, "names is 'a', not a list"),
        ({"names": ["a", 3]}, r"names\[1\] is 3, not a text"),
        ({"inner": {}}, "inner.count is missing"),
        ({"inner": [1]}, r"inner is \[1\], not an object"),
        ({"inner": {"count": False}}, "inner.count is False, not an integer or null"),
        ({"inner": {"count": 1.0}}, "inner.count is 1.0, not an integer or null"),
    ],
)
def test_another_shape_is_named(change, told):
    refused(f"^here, {told}: again$", validate, WHOLE | change, RECORD, "here", "again")


@pytest.mark.parametrize("content", [None, 3, [1], "text"])
def test_another_content_altogether(content):
    refused("here, its content is .*, not an object: again", validate, content, {}, "here", "again")


def test_read_json_checks_the_shape(tmp_path):
    path = tmp_path / "done.json"
    path.write_text("{}")
    assert read_json(path, "again") == {}
    refused("done.json, figures is missing: again", read_json, path, "again", {"figures": dict})


# Texts without bounds


@pytest.mark.parametrize(
    "text, told",
    [
        ("[" * DEEP, "nested too deep"),
        ('{"a":' * DEEP, "nested too deep"),
        ("[" + "9" * 5000 + "]", "malformed JSON"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"\\uDFFF": 1}', "half a surrogate pair"),
        ("", "malformed JSON"),
        ('[{"a": 1, "b": {"c": 1, "c": 1}}]', "the key 'c' is there twice"),
    ],
)
def test_json(text, told):
    refused(f"^here, .*{told}.*: again$", parse_json, text, "here", "again")


def test_a_whole_surrogate_pair_is_text():
    assert parse_json(json.dumps(["\U0001f600"]), "here", "again") == ["\U0001f600"]


@pytest.mark.parametrize(
    "text, told",
    [
        ("a = " + "[" * DEEP, "nested too deep"),
        ("a = " + "{a = " * DEEP, "nested too deep"),
        ("a = " + "9" * 5000, "not TOML"),
        ("a = 1\na = 2", "not TOML"),
        ('a = "\\ud800"', "not TOML"),
    ],
)
def test_toml(text, told):
    refused(f"^here.* {told}.*: again$", parse_toml, text, "here", "again")


# Paths that are no file


@pytest.mark.parametrize(
    "number, fix",
    [
        (errno.EACCES, "change its permissions"),
        (errno.EPERM, "change its permissions"),
        (errno.EROFS, "choose another folder"),
        (errno.ENOSPC, "make room"),
        (errno.EIO, "check the path and the device it is on"),
    ],
)
def test_what_the_system_says_has_its_fix(number, fix):
    error = OSError(number, os.strerror(number), "x")
    said = str(os_error("a\nb\udcff", error))
    assert fix in said and said.isprintable() and said.startswith(r"a\nb\udcff, ")


def paths(folder):
    (folder / "folder").mkdir()
    (folder / "file").write_text("x")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "gone")
    (folder / "zero").symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "name, told",
    [
        ("gone", "no such file or directory: correct the path"),
        ("dangling", "no such file or directory: correct the path"),
        ("folder", "is a directory: name a file, not a folder"),
        ("file/inner", "a part of this path is a file"),
        ("pipe", "a pipe or a device: give a file"),
        ("zero", "a pipe or a device: give a file"),
        ("loop", "too many levels of symbolic links: its links lead back"),
        ("x" * 300, "file name too long: choose a shorter name"),
        ("nul\0", "not a path .*: correct it"),
    ],
)
def test_no_file(tmp_path, name, told):
    paths(tmp_path)
    for read in (read_text, read_lines, file_digest):
        refused(told, read, tmp_path / name)
    refused(told, read_json, tmp_path / name, "again")


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_no_compressed_file(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    refused("a pipe or a device", read_text, tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    refused("is a directory", read_text, tmp_path / f"folder{suffix}")


def test_exists(tmp_path):
    paths(tmp_path)
    there = ("folder", "file", "pipe", "zero")
    assert all(exists(tmp_path / name) for name in there)
    assert not any(exists(tmp_path / name) for name in ("gone", "dangling", "file/inner"))
    for name, told in [("loop", "too many levels"), ("x" * 300, "too long"), ("a\0", "not a path")]:
        refused(told, exists, tmp_path / name)


# What stages leave


SAMPLE = {
    "prompt_id": 0, "prompt": "dog =", "text": "a dog", "label": 1.0, "log_prob": -1.0,
    "log_prob_base": -2.0, "tokens": 3, "finished": True, "value": 0.5,
}  # fmt: skip


def test_samples(tmp_path):
    path = tmp_path / "base.jsonl"
    path.write_text(json.dumps(SAMPLE) + "\n")
    assert [dataclasses.asdict(one) for one in read_samples(path)] == [SAMPLE]
    broken = [SAMPLE | {key: [value]} for key, value in SAMPLE.items()]
    broken += [{k: v for k, v in SAMPLE.items() if k != key} for key in SAMPLE]
    lines = ["3", "[1]", "null", "", "[" * DEEP, "9" * 5000, *map(json.dumps, broken)]
    for line in lines:
        path.write_text(json.dumps(SAMPLE) + f"\n{line}\n")
        refused("base.jsonl:2, .*: delete the generate stage's folder", read_samples, path)
    path.write_text("")
    refused("no samples in", read_samples, path)
    path.unlink()
    refused("run the generate stage first", read_samples, path)
    path.mkdir()
    refused("is a directory", read_samples, path)

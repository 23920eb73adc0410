"""Rollouts on disk: what was never written, and what has been changed, is refused."""

import dataclasses
import io
import os
import zipfile

import numpy as np
import pytest
from support.rows import WIDTH, rollouts

from dinado_jax.errors import InputError
from dinado_jax.rollouts.arrays import Rollouts, RolloutShard, concatenate

COLUMNS = [field for field in dataclasses.fields(Rollouts) if field.name != "condition"]


def assert_equal_rollouts(first, second):
    for field in COLUMNS:
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert a.dtype == b.dtype, field.name
        np.testing.assert_array_equal(a, b, err_msg=field.name)


def test_rollouts_survive_the_disk(tmp_path):
    stored = rollouts(9, references=2)
    stored.save(tmp_path / "rollouts.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.npz"]
    loaded = Rollouts.load(tmp_path / "rollouts.npz")
    assert_equal_rollouts(loaded, stored)
    assert len(loaded) == 9 and loaded.reference.tolist() == [False] * 7 + [True] * 2


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "rollouts.npz"
    rollouts(4).save(path)

    def disk_full(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", disk_full)
    with pytest.raises(OSError, match="disk full"):
        rollouts(5).save(path)
    assert_equal_rollouts(Rollouts.load(path), rollouts(4))


def refused(path):
    with pytest.raises(InputError) as caught:
        Rollouts.load(path)
    message = str(caught.value)
    assert str(path) in message and "run it again" in message and "\n" not in message


def test_missing_rollouts(tmp_path):
    refused(tmp_path / "rollouts.npz")
    refused(tmp_path)


def test_damaged_rollouts(tmp_path):
    """Cut anywhere, or with any wrong byte, a file is refused or loads as it was."""
    path = tmp_path / "rollouts.npz"
    stored = rollouts(2, width=3)
    stored.save(path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        refused(path)
    unharmed = 0
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert_equal_rollouts(Rollouts.load(path), stored)
            unharmed += 1
        except InputError as error:
            assert "\n" not in str(error)
    assert unharmed < len(whole) / 5 / 2


def test_other_files_than_rollouts(tmp_path):
    path = tmp_path / "rollouts.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path.write_bytes(buffer.getvalue())
    refused(path)
    np.savez(path, tokens=np.zeros((2, 2)))
    refused(path)
    objects = {field.name: np.array([{}]) for field in COLUMNS}
    np.savez(path, **objects)  # pickled
    refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tokens.npy", "no array")
    refused(path)


def altered(path, **arrays):
    """Writes nine rows with some arrays replaced."""
    dataclasses.replace(rollouts(9, references=2), **arrays).save(path)


def with_one(name, value):
    """An array of those rows, with one number replaced."""
    array = getattr(rollouts(9, references=2), name).copy()
    array.flat[3] = value
    return {name: array}


def test_unaltered_rows_load(tmp_path):
    altered(tmp_path / "rollouts.npz")
    loaded = Rollouts.load(tmp_path / "rollouts.npz", vocab_size=2000)
    assert_equal_rollouts(loaded, rollouts(9, references=2))


@pytest.mark.parametrize(
    "arrays",
    [
        {"label": np.zeros(8, np.float32)},
        {"label": np.zeros((9, 1), np.float32)},
        {"label": np.zeros(9)},
        {"label": np.float32(0)},
        {"tokens": np.zeros((9, WIDTH), np.int64)},
        {"tokens": np.zeros((9, WIDTH), np.float32)},
        {"tokens": np.zeros((9, WIDTH), ">i4")},
        {"tokens": np.zeros((9, WIDTH - 1), np.int32)},
        {"tokens": np.zeros((0, WIDTH), np.int32)},
        {"finished": np.ones(9, np.int8)},
        {"length": np.array(["3"] * 9)},
        {"log_prefix": np.zeros((9, WIDTH), np.float32)},
        {"log_prefix": np.zeros(9, np.float32)},
        with_one("label", np.nan),
        with_one("label", 1.5),
        with_one("label", -0.5),
        with_one("tokens", -1),
        with_one("length", WIDTH + 1),
        with_one("length", 0),
        with_one("length", -3),
        with_one("prompt_length", 0),
        with_one("prompt_length", WIDTH),
        with_one("log_base", np.nan),
        with_one("log_base", -np.inf),
        with_one("log_proposal", np.inf),
        with_one("log_prefix", np.nan),
        with_one("prompt_id", -1),
    ],
)
def test_rows_that_were_never_collected(tmp_path, arrays):
    path = tmp_path / "rollouts.npz"
    altered(path, **arrays)
    refused(path)


def test_tokens_of_another_vocabulary(tmp_path):
    path = tmp_path / "rollouts.npz"
    stored = rollouts(9)
    stored.save(path)
    largest = int(stored.tokens.max())
    assert_equal_rollouts(Rollouts.load(path, vocab_size=largest + 1), stored)
    with pytest.raises(InputError, match="token ids outside the vocabulary"):
        Rollouts.load(path, vocab_size=largest)


@pytest.mark.parametrize("shape", ["(35184372088832,)", "(1099511627776, 32)", "(-9,)", "(9.5,)"])
def test_headers_that_claim_more_than_there_is(tmp_path, shape):
    """Before memory is taken for it."""
    path = tmp_path / "rollouts.npz"
    altered(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = "tokens.npy" if ", 3" in shape else "label.npy"
    text = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.replace("i4", "i4" if name == "tokens.npy" else "f4").ljust(117) + "\n"
    members[name] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    refused(path)


def test_rollouts_that_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, told in [("pipe", "a pipe"), ("zero", "a pipe"), ("loop", "links lead back")]:
        with pytest.raises(InputError, match=told):
            Rollouts.load(tmp_path / name)


def test_parts_keep_rows_that_the_oracle_failed_on(tmp_path):
    rows = rollouts(4)
    label = np.float32([0, np.nan, 1, 0])
    row, error = np.arange(4), np.array(["", "broken", "", ""])
    part = RolloutShard(**vars(rows) | {"label": label}, row=row, error=error)
    part.save(tmp_path / "part.npz")
    np.testing.assert_array_equal(RolloutShard.load(tmp_path / "part.npz").label, label)
    dataclasses.replace(part, error=np.full(4, "")).save(tmp_path / "part.npz")
    with pytest.raises(InputError, match="labels outside"):
        RolloutShard.load(tmp_path / "part.npz")


def test_join_pads_narrower_rows():
    narrow, wide = rollouts(3, width=5), rollouts(4, width=9, references=1, seed=1)
    joined = concatenate([narrow, wide], fill=77)
    assert joined.tokens.shape == (7, 9) and joined.tokens.dtype == np.int32
    np.testing.assert_array_equal(joined.tokens[:3, :5], narrow.tokens)
    assert (joined.tokens[:3, 5:] == 77).all()
    np.testing.assert_array_equal(joined.log_prefix[:3, :4], narrow.log_prefix)
    assert (joined.log_prefix[:3, 4:] == 0).all()
    np.testing.assert_array_equal(joined.tokens[3:], wide.tokens)
    np.testing.assert_array_equal(joined.log_prefix[3:], wide.log_prefix)
    for field in COLUMNS:
        if field.name in ("tokens", "log_prefix"):
            continue
        expected = np.concatenate([getattr(part, field.name) for part in (narrow, wide)])
        np.testing.assert_array_equal(getattr(joined, field.name), expected)
    assert_equal_rollouts(concatenate([wide], fill=0), wide)

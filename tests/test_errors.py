"""A full disk, in the words of every library that writes."""

import types
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from support import tiny

from dinado_jax.errors import InputError, catch_disk_full, one_line
from dinado_jax.models import hf_folder
from dinado_jax.models.architectures import save_model
from dinado_jax.models.codec import Codec
from dinado_jax.training.checkpoint import Checkpoints


@pytest.mark.parametrize(
    "error",
    [
        Exception("No space left on device (os error 28)"),
        ValueError("RESOURCE_EXHAUSTED: error\nwriting"),
        OSError(28, "No space left on device", "x"),
    ],
)
def test_a_full_disk_is_input(error):
    told = r"cannot write some/path .*run\.folder=DIR"
    with pytest.raises(InputError, match=told) as caught, catch_disk_full(Path("some/path")):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("shape"), InputError("No space left"), KeyError(1)])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, catch_disk_full(Path("some/path")):
        raise error
    assert caught.value is error


def test_one_line():
    assert one_line(ValueError("a\n b")) == "ValueError: a b"
    assert one_line(OSError()) == "OSError:"
    assert len(one_line(ValueError("x" * 999))) == 200


def full(*args, **kwargs):
    raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")


@pytest.mark.parametrize("name", ["save", "wait_until_finished"])
def test_checkpoints(tmp_path, monkeypatch, name):
    monkeypatch.setattr("orbax.checkpoint.CheckpointManager." + name, full)
    told = f"cannot write {tmp_path}.*no space left on device"
    with pytest.raises(InputError, match=told), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": np.zeros(3)})


def test_weights(tmp_path, monkeypatch):
    def full(*args):
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    monkeypatch.setattr(hf_folder, "save_file", full)
    with pytest.raises(InputError, match=f"cannot write {tmp_path}"):
        save_model(tmp_path, tiny.model(), tiny.base_params())
    assert not list(tmp_path.iterdir())


def test_tokenizers(tmp_path):
    tokenizer = types.SimpleNamespace(save_pretrained=full)
    with pytest.raises(InputError, match=f"cannot write {tmp_path}"):
        Codec(tokenizer, (0,)).save(tmp_path)

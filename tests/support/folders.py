"""Folders of weights to damage, and the refusals that follow."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dinado_jax.errors import InputError


def edit(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Rewrites the weights after `change` has edited the dict of tensors in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def shard(folder: Path) -> dict:
    """Splits model.safetensors in two by an index; returns the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {key: f"part-{i % 2}.safetensors" for i, key in enumerate(sorted(tensors))}
    for file in set(weight_map.values()):
        save_file({k: t for k, t in tensors.items() if weight_map[k] == file}, folder / file)
    index = {"weight_map": weight_map}
    write_index(folder, index)
    return index


def write_index(folder: Path, index: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def refused(match: str, function: Callable, *args: Any) -> str:
    """Asserts that the call is an InputError of one line that matches; returns the line."""
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)

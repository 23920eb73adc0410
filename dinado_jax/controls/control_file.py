"""A trained control in two files, without its base and its run.

`control.safetensors` has its parameters. `control.json` has what they are parameters of: the
settings by which the control is built, in the sections of a configuration, the SHA-256 of the base
and of the parameters, and the figures of the run.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dinado_jax import __version__
from dinado_jax.config.checks import not_among, out_of_range
from dinado_jax.config.load import assign, leaves
from dinado_jax.config.schema import Config, flatten
from dinado_jax.controls.control import Control
from dinado_jax.controls.make import DIRECTIONS, KINDS
from dinado_jax.errors import InputError
from dinado_jax.models.hf_folder import (
    check_finite,
    check_tensors,
    read_safetensors,
    write_tensors,
)
from dinado_jax.utils.files import (
    exists,
    file_digest,
    read_sealed_record,
    validate,
    write_sealed,
)

CONTROL, WEIGHTS = "control.json", "control.safetensors"
CONTROL_FILES = (CONTROL, WEIGHTS)
# Version of the two files. Bump it when an older version of the package would misread them.
FORMAT = 1
# The settings that say what a control is, and how it decodes.
_SETTINGS = {
    "base": ("path", "dtype", "param_dtype", "prompt_template"),
    "control": ("kind", "direction", "form", "trunk", "layers", "norm", "norm_layers", "state"),
    "delta": ("kind", "positions", "shift", "rank", "alpha", "low_rank", "full", "from_layer"),
    "rollout": ("oracle", "max_new_tokens"),
    "decode": ("max_new_tokens", "strength", "target_rate", "reject"),
}
_SCHEMA = {
    "format": int,
    "version": str,
    "settings": {section: dict for section in _SETTINGS},
    "base": str,
    "parameters": str,
    "figures": (dict, type(None)),
}
_FIX = "copy or download the control again"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a control comes from."""

    settings: Config  # by which it was trained; rollout.oracle is the name of its oracle
    # Of its run on held-out prompts, by the names of `Evaluation`; None where there is no number.
    figures: dict[str, float | None] | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """What control.json says."""

    origin: Origin
    base: str  # SHA-256 of the base, see `hf_folder.fingerprint`
    parameters: str  # SHA-256 of control.safetensors


def write_control(
    folder: Path, control: Control, params: Any, base_params: Any, origin: Origin, base: str
) -> None:
    """Writes a control.

    Args:
      folder: there already.
      control: that `make_control` builds by the settings of `origin`.
      params: its parameters.
      base_params: of the base.
      origin: with the settings that `_SETTINGS` lists as they are to be when it is loaded.
      base: fingerprint of the base.

    Raises:
      InputError: for parameters that are not the control's, and for a full disk.
    """
    tensors = {name: np.asarray(leaf) for name, leaf in _by_name(params).items()}
    check_tensors(tensors, _shapes(_abstract(control, base_params)), folder, CONTROL)
    write_tensors(folder / WEIGHTS, tensors)
    settings = origin.settings.as_dict()
    write_sealed(
        folder / CONTROL,
        {
            "format": FORMAT,
            "version": __version__,
            "settings": {
                section: {key: settings[section][key] for key in keys}
                for section, keys in _SETTINGS.items()
            },
            "base": base,
            "parameters": file_digest(folder / WEIGHTS),
            "figures": origin.figures,
        },
    )


def read_control(folder: Path) -> Record:
    """Reads control.json.

    Raises:
      InputError: where it is missing, damaged or of a newer version, and for settings that no
        control has.
    """
    path = folder / CONTROL
    if not exists(path):
        raise InputError(f"no {CONTROL} in {folder}: give a folder that a control was saved in")
    tree = read_sealed_record(path, _SCHEMA, FORMAT, _FIX)
    figures: dict[str, Any] | None = tree["figures"]
    numbers: dict[str, Any] = dict.fromkeys(figures or {}, (int, float, type(None)))
    validate(figures or {}, numbers, f"{path}, figures", _FIX)
    return Record(Origin(_settings(tree, path), figures), tree["base"], tree["parameters"])


def _settings(tree: dict[str, Any], path: Path) -> Config:
    config = assign(Config(), leaves(tree["settings"], str(path)))
    values = {key: value for key, (value, _) in flatten(config).items()}
    kind, direction = config.control.kind, config.control.direction
    for fault in itertools.chain(
        not_among("control.kind", kind, KINDS),
        not_among("control.direction", direction, DIRECTIONS),
        out_of_range(values),
    ):
        raise InputError(f"{path}, {fault}")
    return config


def read_params(folder: Path, record: Record, control: Control, base_params: Any) -> Any:
    """Reads control.safetensors.

    Args:
      folder: of the control.
      record: of `read_control`.
      control: built by its settings.
      base_params: of the base; only their shapes are read.

    Returns:
      The parameters, on the host.

    Raises:
      InputError: where the file is missing or damaged, and for every tensor that is missing,
        unused, misshapen or not finite.
    """
    path = folder / WEIGHTS
    if not exists(path):
        raise InputError(f"no {WEIGHTS} in {folder}: {_FIX}")
    if file_digest(path) != record.parameters:
        raise InputError(f"{path} is not the file that {CONTROL} was written with: {_FIX}")
    tensors, wanted = read_safetensors(path), _abstract(control, base_params)
    check_tensors(tensors, _shapes(wanted), folder, CONTROL)
    check_finite(tensors, folder)
    return jax.tree.unflatten(jax.tree.structure(wanted), [tensors[n] for n in _by_name(wanted)])


def _abstract(control: Control, base_params: Any) -> Any:
    """The control's parameters as `jax.ShapeDtypeStruct`s: nothing is computed."""
    return jax.eval_shape(lambda: control.init(jax.random.key(0), base_params, 0.5))


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in _by_name(params).items()}


def _by_name(params: Any) -> dict[str, Any]:
    """The leaves of a pytree by their "/"-joined paths, in the order of `jax.tree.leaves`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }

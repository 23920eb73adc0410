"""Parameters of any architecture: random ones, their shapes, and their paths."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from dinado_jax.models.protocol import BaseModel
from dinado_jax.utils import arguments


def init_params(model: BaseModel, seed: int) -> dict:
    """Random parameters of a seed in [0, 2^32). InputError for any other seed."""
    key = jax.random.key(arguments.require_seed(seed))
    return jax.jit(model.init)(key)


def abstract_params(model: BaseModel) -> dict:
    """The parameters as `jax.ShapeDtypeStruct`s: nothing is computed."""
    return jax.eval_shape(lambda: init_params(model, 0))


def param_shapes(model: BaseModel) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its "/"-joined path."""
    return {path: leaf.shape for path, leaf in by_path(abstract_params(model)).items()}


def cast_matrices(params: dict, dtype: str) -> dict:
    """Casts matrices to the activation dtype. Every use of one rounds it to that dtype anyway: a
    decoding loop would read it in full, and round it, at every token.
    """
    return jax.tree.map(lambda x: x.astype(dtype) if x.ndim == 2 else x, params)


def is_kernel(path: str) -> bool:
    """Whether a parameter is a matrix (out, in) that inputs are multiplied by; all other matrices
    are tables, whose rows are looked up.
    """
    return path.endswith("/kernel")


def in_out(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter, that of a kernel as (in, out)."""
    return shape[::-1] if is_kernel(path) else shape


def has_prefix(params: Mapping[str, Any]) -> bool:
    """Whether parameters have keys and values ahead of every row, see `layers.Prefix`."""
    return any("/prefix/" in path for path in by_path(params))


def by_path(params: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts as one, from "/"-joined paths to leaves."""
    return dict(traverse_util.flatten_dict(params, sep="/"))


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `by_path`."""
    return dict(traverse_util.unflatten_dict(flat, sep="/"))

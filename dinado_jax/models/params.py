"""Parameters of any architecture: random ones, and their shapes."""

import jax
from flax.traverse_util import flatten_dict

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
    return {
        path: leaf.shape for path, leaf in flatten_dict(abstract_params(model), sep="/").items()
    }

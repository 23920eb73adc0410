"""What programs say to a compiler that spreads them over devices; nothing to any other.

Under `parallel.Plan`, mode jit, rows are cut into as many parts as there are devices.
"""

import math

import jax
from jax.sharding import PartitionSpec

_SMALL = 2**12  # values; smaller arrays are not worth sharing out


def _devices() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or not mesh.are_all_axes_auto else mesh.size


def shard_count(rows: int) -> int:
    """How many devices share an axis of so many rows."""
    devices = _devices()
    return devices if rows % devices == 0 else 1


def partition_spec(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """How an array is cut by devices that share one copy of it: along the first axis that they
    divide. (Where it is a later one, TPUs' compilers add up the whole of its gradient.)"""
    spec = [None] * len(shape)
    axes = [i for i, size in enumerate(shape) if size % devices == 0]
    if devices > 1 and axes and math.prod(shape) >= _SMALL:
        spec[axes[0]] = "fsdp"
    return PartitionSpec(*spec)


def reduce_scatter_grad(gradient: jax.Array) -> jax.Array:
    """A gradient cut as its parameter is: no device needs the sum of more than its own part."""
    devices = 1 if _devices() == 1 else jax.sharding.get_abstract_mesh().shape["fsdp"]
    if devices == 1:
        return gradient
    return jax.lax.with_sharding_constraint(gradient, partition_spec(gradient.shape, devices))


def all_gather_param(parameter: jax.Array) -> jax.Array:
    """A parameter whole on every device: one that is shared out is fetched where it is used, and
    forgotten after; the rows stay where they are."""
    if _devices() == 1:
        return parameter
    return jax.lax.with_sharding_constraint(parameter, PartitionSpec())


def sharded_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x times a parameter in x's dtype. Where it is shared out its gradient fetches it once more:
    what was fetched for the forward pass would otherwise stay until then, the whole base of it."""

    def whole(x, kernel):
        return x @ all_gather_param(kernel).astype(x.dtype)

    return whole(x, kernel) if _devices() == 1 else jax.checkpoint(whole)(x, kernel)

"""Sharding constraints inside a program, in effect only under `partitioning.Plan` in mode jit.

There the compiler sees a mesh (data, fsdp): rows are sharded over both axes, large parameters over
fsdp. Without a mesh every function here is the identity.
"""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

DATA, FSDP = "data", "fsdp"  # the axes of a mesh
AXES = (DATA, FSDP)
_SMALL = 2**12  # values; smaller arrays are replicated


def _devices() -> int:
    """Size of the mesh over which the compiler shards this program; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or not mesh.are_all_axes_auto else mesh.size


def shard_count(rows: int) -> int:
    """Returns the number of shards of an axis of `rows`; 1 if it is not divisible."""
    devices = _devices()
    return devices if rows % devices == 0 else 1


def partition_spec(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """Returns the sharding of a parameter over `devices` of the fsdp axis.

    The first axis whose size they divide is sharded; small arrays are replicated. With a later
    axis TPU compilers all-reduce the whole gradient instead of reduce-scattering it.
    """
    spec: list[str | None] = [None] * len(shape)
    axes = [i for i, size in enumerate(shape) if size % devices == 0]
    if devices > 1 and axes and math.prod(shape) >= _SMALL:
        spec[axes[0]] = FSDP
    return PartitionSpec(*spec)


def reduce_scatter_grad(gradient: jax.Array) -> jax.Array:
    """Shards a gradient like its parameter: each device gets only the sum of its own shard."""
    devices = 1 if _devices() == 1 else jax.sharding.get_abstract_mesh().shape[FSDP]
    if devices == 1:
        return gradient
    return jax.lax.with_sharding_constraint(gradient, partition_spec(gradient.shape, devices))


def all_gather_param(parameter: jax.Array) -> jax.Array:
    """All-gathers an FSDP-sharded parameter before its use, instead of resharding activations."""
    if _devices() == 1:
        return parameter
    return jax.lax.with_sharding_constraint(parameter, PartitionSpec())


def with_gathered(
    function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, parameter: jax.Array
) -> jax.Array:
    """Calls function(x, parameter) with a parameter that may be sharded.

    The backward pass gathers the parameter again: otherwise the gathered copies of all layers would
    be kept in memory from the forward pass.
    """

    def call(x: jax.Array, parameter: jax.Array) -> jax.Array:
        return function(x, all_gather_param(parameter))

    return call(x, parameter) if _devices() == 1 else jax.checkpoint(call)(x, parameter)

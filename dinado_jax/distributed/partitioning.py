"""Parallelism: a training step runs on the devices of all processes, decoding on those of one.

A training step is one function of (state, frozen, batch, axis) that sums over rows by `psum`.
`Plan.compile` turns it into a program in one of three modes:

jit        arrays are sharded over a mesh (data, fsdp) and the compiler inserts the collectives
           (axis None); base, trainable parameters and optimiser state are sharded over fsdp
shard_map  each device computes on its rows; sums are explicit psums
pmap       the same by JAX's older transformation

Decoding needs no communication: `shard_rows` gives each device its own prompts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dinado_jax.config.schema import Parallel
from dinado_jax.distributed.constraints import AXES, FSDP, partition_spec
from dinado_jax.errors import InputError

_ROWS = "rows"  # the one axis of a mesh for decoding


def psum(tree: Any, axis: str | tuple[str, ...] | None) -> Any:
    """Sums over the devices of a mapped axis; the identity for None, where rows are not mapped."""
    return tree if axis is None else jax.lax.psum(tree, axis)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The placement of training's arrays on devices."""

    mode: str  # jit | shard_map | pmap
    mesh: Mesh  # (data, fsdp) over the devices of all processes

    def check_batch(self, name: str, batch: int, pieces: int) -> None:
        """Checks that rows can be divided evenly among the devices.

        Args:
          name: section of the configuration, for the message.
          batch: rows of a step.
          pieces: number of micro-batches times the parts of each.

        Raises:
          InputError: the rows of a piece cannot be divided evenly among the devices.
        """
        unit = pieces * self.mesh.size
        if batch % unit:
            raise InputError(
                f"{name}.batch = {batch} cannot be shared by {self.mesh.size} devices in {pieces} "
                f"pieces each: choose a multiple of {unit}, or set parallel.devices"
            )

    def compile(self, step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """Compiles a training step for the devices of the plan.

        Args:
          step: (state, frozen, batch, axis) -> (state, metrics).

        Returns:
          A program of (state, frozen, batch); the state is donated.
        """
        if self.mode == "jit":

            def sharded_step(state: Any, frozen: Any, batch: Any) -> tuple[Any, Any]:
                with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                    state, metrics = step(state, frozen, batch, None)
                return jax.lax.with_sharding_constraint(state, self.shardings(state)), metrics

            return jax.jit(sharded_step, donate_argnums=0)
        body = functools.partial(step, axis=AXES)
        if self.mode == "shard_map":
            whole, rows = PartitionSpec(), PartitionSpec(None, AXES)
            mapped = jax.shard_map(
                body,
                mesh=self.mesh,
                in_specs=(whole, whole, rows),
                out_specs=whole,
                check_vma=False,
            )
            return jax.jit(mapped, donate_argnums=0)
        return jax.pmap(
            functools.partial(step, axis=_ROWS),
            axis_name=_ROWS,
            in_axes=(None, None, 1),
            out_axes=None,
            donate_argnums=0,
            devices=list(self.mesh.devices.flat) if jax.process_count() == 1 else None,
        )

    def shardings(self, tree: Any) -> Any:
        """Returns the sharding of each array of base or state: large arrays over fsdp."""
        parts = self.mesh.shape[FSDP]
        return jax.tree.map(
            lambda x: NamedSharding(self.mesh, partition_spec(x.shape, parts)), tree
        )

    def init_sharded(self, function: Callable, *args: Any) -> Any:
        """Computes base or state with sharded outputs: no device holds more than its shards."""
        if self.mode == "pmap":
            return replicate(local_mesh(self), jax.jit(function)(*args))
        shardings = self.shardings(jax.eval_shape(function, *args))
        return jax.jit(function, out_shardings=shardings)(*args)

    def shard(self, tree: Any) -> Any:
        """Shards base or state for training, from a full copy in every process."""
        if self.mode == "pmap":
            return replicate(local_mesh(self), jax.tree.map(np.asarray, tree))
        return jax.tree.map(_put, tree, self.shardings(tree))

    def shard_batch(self, batch: Any) -> Any:
        """Shards a batch, of which every process has all rows: leaves [micro-batches, rows, ..]."""
        if self.mode != "pmap":
            rows = NamedSharding(self.mesh, PartitionSpec(None, AXES))
            return jax.tree.map(lambda x: _put(x, rows), batch)
        local = [device.process_index == jax.process_index() for device in self.mesh.devices.flat]

        def local_rows(x: np.ndarray) -> np.ndarray:
            return x.reshape(len(x), self.mesh.size, -1, *x.shape[2:])[:, local]

        return jax.tree.map(local_rows, batch)

    def to_host(self, state: Any) -> Any:
        """Returns a state in the form that checkpoints save: NumPy arrays under pmap."""
        return jax.tree.map(np.asarray, state) if self.mode == "pmap" else state

    def abstract(self, tree: Any) -> Any:
        """Returns shapes, dtypes and shardings of a state, or a part of it, to restore it with."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.shardings(tree),
        )

    def gather_to_host(self, tree: Any) -> Any:
        """Gathers base or state into host memory, one array at a time."""
        return jax.tree.map(lambda leaf: np.asarray(self.gather(leaf)), tree)

    def gather(self, tree: Any) -> Any:
        """Replicates base or state on every device of this process, for decoding."""
        if self.mode == "pmap":
            return tree
        if self.mesh.shape[FSDP] > 1:
            tree = _all_gather(self.mesh)(tree)
        if jax.process_count() == 1:
            return tree
        replicated = NamedSharding(local_mesh(self), PartitionSpec())

        def local_copies(x: jax.Array) -> jax.Array:
            copies = [shard.data for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape, replicated, copies)

        return jax.tree.map(local_copies, tree)


def make_plan(settings: Parallel) -> Plan:
    """Returns the plan of a configuration.

    Raises:
      InputError: a process has fewer devices than `parallel.devices`, or `parallel.fsdp` does not
        divide the number of all devices.
    """
    per_process = [
        [device for device in jax.devices() if device.process_index == process]
        for process in range(jax.process_count())
    ]
    fewest = min(map(len, per_process))
    if settings.devices > fewest:
        raise InputError(
            f"parallel.devices = {settings.devices}, a process has {fewest}: choose at most that, "
            "or 0 for all"
        )
    devices = [device for local in per_process for device in local[: settings.devices or None]]
    if len(devices) % settings.fsdp:
        raise InputError(
            f"parallel.fsdp = {settings.fsdp} does not divide the {len(devices)} devices: choose "
            "a divisor"
        )
    grid = np.array(devices).reshape(-1, settings.fsdp)
    return Plan(settings.mode, Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2))


def local_mesh(plan: Plan) -> Mesh:
    """Returns a mesh of this process's devices among the plan's, for decoding."""
    local = [d for d in plan.mesh.devices.flat if d.process_index == jax.process_index()]
    return Mesh(np.array(local), (_ROWS,), axis_types=(AxisType.Auto,))


@functools.cache
def _all_gather(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """Replicates arrays on every device of a mesh; returns them unchanged for None."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_rows(
    mesh: Mesh | None, function: Callable[..., Any], shared: tuple[Any, ...], rows: tuple[Any, ...]
) -> Any:
    """Calls function(*shared, *rows) under jit with the rows divided among the devices of a mesh.

    Args:
      mesh: of one axis; None or one device for a plain call.
      function: every array of its result has rows as its leading axis.
      shared: arrays that are replicated.
      rows: arrays with rows as their leading axis, and scalars, which are replicated.
    """
    if mesh is None or mesh.size == 1:
        return function(*shared, *rows)

    def specs(tree: Any) -> Any:
        return jax.tree.map(lambda x: PartitionSpec(_ROWS) if x.ndim else PartitionSpec(), tree)

    # XLA of jax 0.11 crashes while it compiles a shard_map that reads an argument without elements,
    # such as a cache without slots: each device makes its own.
    def own_if_empty(x: jax.Array) -> jax.Array:
        return x if x.size else jnp.zeros_like(x)

    def local_shape(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return x.update(shape=(x.shape[0] // mesh.size, *x.shape[1:])) if x.ndim else x

    shapes = jax.tree.map(local_shape, jax.eval_shape(lambda rows: rows, rows))
    out = jax.eval_shape(function, *shared, *shapes)
    mapped = jax.shard_map(
        lambda shared, rows: function(*jax.tree.map(own_if_empty, (*shared, *rows))),
        mesh=mesh,
        in_specs=(PartitionSpec(), specs(rows)),
        out_specs=specs(out),
        check_vma=False,
    )
    return mapped(shared, rows)

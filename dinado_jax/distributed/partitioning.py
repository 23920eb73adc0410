"""How work is spread over devices: training steps over all, decoding over those of one process.

A training step is one function of (state, frozen, batch, axis), in which sums over rows go through
`total`. `Plan.compiled` wraps it in one of three ways:

jit        arrays on a mesh of all devices, the compiler spreads the work (axis None); `fsdp` of
           them share one copy of base, trainable parameters and optimiser state
shard_map  each device has rows of its own, sums meet in a psum
pmap       the same, as JAX had it first

Decoding sends nothing between devices: `over_rows` gives each of them prompts of its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dinado_jax.config.schema import Parallel
from dinado_jax.distributed.constraints import partition_spec
from dinado_jax.errors import InputError

AXES = ("data", "fsdp")
_ROWS = "rows"


def psum(tree: Any, axis: str | tuple[str, ...] | None) -> Any:
    """The sum over devices that have rows of their own; None: the compiler sees all rows."""
    return tree if axis is None else jax.lax.psum(tree, axis)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the arrays of training lie."""

    mode: str  # jit | shard_map | pmap
    mesh: Mesh  # (data, fsdp) over the devices of all processes

    def check_batch(self, name: str, batch: int, pieces: int) -> None:
        """InputError if the pieces of a batch, micro-batches and their parts, cannot be shared out
        evenly."""
        unit = pieces * self.mesh.size
        if batch % unit:
            raise InputError(
                f"{name}.batch = {batch} cannot be shared by {self.mesh.size} devices in {pieces} "
                f"pieces each: choose a multiple of {unit}, or set parallel.devices"
            )

    def compile(self, step: Callable) -> Callable:
        """step(state, frozen, batch, axis) -> (state, metrics) as a program of the first three; the
        state is donated."""
        if self.mode == "jit":

            def sharded_step(state, frozen, batch):
                with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                    state, metrics = step(state, frozen, batch, None)
                return jax.lax.with_sharding_constraint(state, self.shardings(state)), metrics

            return jax.jit(sharded_step, donate_argnums=0)
        body = functools.partial(step, axis=AXES)
        if self.mode == "shard_map":
            everywhere, rows = PartitionSpec(), PartitionSpec(None, AXES)
            mapped = jax.shard_map(
                body,
                mesh=self.mesh,
                in_specs=(everywhere, everywhere, rows),
                out_specs=everywhere,
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
        """Of base, trainable parameters and optimiser state: what is large is shared out by
        `fsdp`."""
        parts = self.mesh.shape["fsdp"]
        return jax.tree.map(
            lambda x: NamedSharding(self.mesh, partition_spec(x.shape, parts)), tree
        )

    def init_sharded(self, function: Callable, *args: Any) -> Any:
        """What a function of placed arrays gives, each device making no more than its share."""
        if self.mode == "pmap":
            return replicate(local_mesh(self), jax.jit(function)(*args))
        shardings = self.shardings(jax.eval_shape(function, *args))
        return jax.jit(function, out_shardings=shardings)(*args)

    def shard(self, tree: Any) -> Any:
        """Base or state, as every process has it whole or as it was placed before, where training
        wants it."""
        if self.mode == "pmap":
            return replicate(local_mesh(self), jax.tree.map(np.asarray, tree))
        return jax.tree.map(_put, tree, self.shardings(tree))

    def shard_batch(self, batch: Any) -> Any:
        """A batch [micro-batches, rows, ..] of all processes, as each of them has it: its rows."""
        if self.mode != "pmap":
            rows = NamedSharding(self.mesh, PartitionSpec(None, AXES))
            return jax.tree.map(lambda x: _put(x, rows), batch)
        mine = [device.process_index == jax.process_index() for device in self.mesh.devices.flat]

        def own(x):
            return x.reshape(len(x), self.mesh.size, -1, *x.shape[2:])[:, mine]

        return jax.tree.map(own, batch)

    def to_host(self, state: Any) -> Any:
        """A state as checkpoints take it."""
        return jax.tree.map(np.asarray, state) if self.mode == "pmap" else state

    def abstract(self, tree: Any) -> Any:
        """The shapes of a state or of a part of it, as checkpoints give it back: to be placed."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.shardings(tree),
        )

    def gather_to_host(self, tree: Any) -> Any:
        """Base or state in the memory of every process; on devices one array at a time is whole."""
        return jax.tree.map(lambda leaf: np.asarray(self.gather(leaf)), tree)

    def gather(self, tree: Any) -> Any:
        """Base or state whole on every device of this process, as decoding wants it."""
        if self.mode == "pmap":
            return tree
        if self.mesh.shape["fsdp"] > 1:
            tree = _everywhere(self.mesh)(tree)
        if jax.process_count() == 1:
            return tree
        mesh = local_mesh(self)
        everywhere = NamedSharding(mesh, PartitionSpec())

        def own(x):
            pieces = [shard.data for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape, everywhere, pieces)

        return jax.tree.map(own, tree)


def make_plan(settings: Parallel) -> Plan:
    """The plan of a configuration. InputError if there are fewer devices than it names, or if
    `fsdp` does not divide their number."""
    of_processes = [_of(process) for process in range(jax.process_count())]
    fewest = min(map(len, of_processes))
    if settings.devices > fewest:
        raise InputError(
            f"parallel.devices = {settings.devices}, a process has {fewest}: choose at most that, "
            "or 0 for all"
        )
    devices = [device for own in of_processes for device in own[: settings.devices or None]]
    if len(devices) % settings.fsdp:
        raise InputError(
            f"parallel.fsdp = {settings.fsdp} does not divide the {len(devices)} devices: choose "
            "a divisor"
        )
    grid = np.array(devices).reshape(-1, settings.fsdp)
    return Plan(settings.mode, Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2))


def _of(process: int) -> list:
    return [device for device in jax.devices() if device.process_index == process]


def local_mesh(plan: Plan) -> Mesh:
    """Those of the plan's devices that are this process's, to decode on."""
    own = [d for d in plan.mesh.devices.flat if d.process_index == jax.process_index()]
    return Mesh(np.array(own), (_ROWS,), axis_types=(AxisType.Auto,))


@functools.cache
def _everywhere(mesh: Mesh) -> Callable:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays on every device of a mesh, whole."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_rows(mesh: Mesh | None, function: Callable, shared: tuple, rows: tuple) -> Any:
    """function(*shared, *rows), each device with rows of its own: a part of the leading axis of
    every array in `rows` and in the result; scalars are the same everywhere. Under jit; no mesh:
    plainly."""
    if mesh is None or mesh.size == 1:
        return function(*shared, *rows)

    def specs(tree):
        return jax.tree.map(lambda x: PartitionSpec(_ROWS) if x.ndim else PartitionSpec(), tree)

    def part(x):
        return x.update(shape=(x.shape[0] // mesh.size, *x.shape[1:])) if x.ndim else x

    shapes = jax.tree.map(part, jax.eval_shape(lambda rows: rows, rows))
    out = jax.eval_shape(function, *shared, *shapes)
    mapped = jax.shard_map(
        lambda shared, rows: function(*shared, *rows),
        mesh=mesh,
        in_specs=(PartitionSpec(), specs(rows)),
        out_specs=specs(out),
        check_vma=False,
    )
    return mapped(shared, rows)

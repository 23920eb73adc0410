"""A training step, its state, and the evaluation of rows left out of training."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dinado_jax.distributed.constraints import reduce_scatter_grad
from dinado_jax.distributed.partitioning import Plan, psum
from dinado_jax.objectives.terms import Term

Batch = Any  # a pytree of arrays whose leading axis is the row
Terms = Callable[[Any, Any, Batch], dict[str, Term]]


@struct.dataclass
class TrainState:
    """Everything that a resumed run needs; batches are pure functions of the step."""

    step: jax.Array  # int32 scalar, steps done
    trainable: Any
    opt_state: Any


Step = Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, jax.Array]]]


def init_state(trainable: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))


def at_average(state: TrainState) -> TrainState:
    """Continues from the average of the iterates of an optimiser that is `averaged`."""
    # A copy: the step donates the state, and no buffer may be donated twice.
    return TrainState(state.step, jax.tree.map(jnp.copy, state.opt_state.mean), state.opt_state)


def make_step(
    terms: Terms, optimizer: optax.GradientTransformation, plan: Plan | None = None
) -> Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles step(state, frozen, batch) -> (state, metrics); the state is donated.

    Every leaf of the batch is [micro-batches, rows, ...]; gradients are accumulated over the
    leading axis. Metrics are the loss, its terms and the norm of the gradient, float32 [] each.

    Args:
      terms: (trainable, frozen, micro_batch) -> the loss as sums and weights.
      optimizer: of the trainable parameters.
      plan: how the step is partitioned over devices; None runs it where its arrays are.
    """

    def step(state: TrainState, frozen: Any, batch: Batch, axis):
        def weights_of(micro):
            out = terms(state.trainable, frozen, micro)
            return {name: term.weight for name, term in out.items()}

        # Weights do not depend on parameters: the compiler removes the rest of this forward pass.
        weights = jax.tree.map(jnp.sum, jax.vmap(weights_of)(batch))
        weights = jax.tree.map(lambda w: jnp.maximum(w, 1e-9), psum(weights, axis))

        def loss_of(trainable, micro):
            with jax.named_scope("loss"):
                out = terms(trainable, frozen, micro)
            parts = {name: term.sum / weights[name] for name, term in out.items()}
            return sum(term.coefficient * parts[name] for name, term in out.items()), parts

        def accumulate(sums, micro):
            (loss, parts), grads = jax.value_and_grad(loss_of, has_aux=True)(state.trainable, micro)
            grads = jax.tree.map(reduce_scatter_grad, grads)
            return jax.tree.map(jnp.add, sums, ({"loss": loss, **parts}, grads)), None

        zero = {name: jnp.zeros((), jnp.float32) for name in ("loss", *weights)}
        sums, _ = jax.lax.scan(
            accumulate, (zero, jax.tree.map(jnp.zeros_like, state.trainable)), batch
        )
        # Each device differentiates the loss of its own rows; this is the only reduction.
        metrics, grads = psum(sums, axis)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
            trainable = optax.apply_updates(state.trainable, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(state.step + 1, trainable, opt_state), metrics

    if plan is None:
        return jax.jit(functools.partial(step, axis=None), donate_argnums=0)
    return plan.compile(step)


def split_micro_batches(batch: Batch, accumulate: int) -> Batch:
    """Reshapes every leaf from [rows, ...] to [micro-batches, rows, ...]."""
    return jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)

"""A training step, its state, and the evaluation of rows left out of training."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dinado_jax.distributed.constraints import reduce_scatter_grad
from dinado_jax.distributed.partitioning import Plan, psum
from dinado_jax.objectives.terms import Term

Batch = Any  # a pytree of arrays whose leading axis is the row
Terms = Callable[[Any, Any, Batch], dict[str, Term]]

_PATIENCE = 3  # evaluations without a better one, after which a phase ends


@struct.dataclass
class Best:
    """The best averaged parameters of a phase by the loss on rows left out of training."""

    step: jax.Array  # int32 scalar, steps done when they were evaluated
    loss: jax.Array  # float32 scalar, nats; inf for a loss that is no number
    params: Any


@struct.dataclass
class TrainState:
    """Everything that a resumed run needs; batches are pure functions of the step."""

    step: jax.Array  # int32 scalar, steps done, or left out where a phase ended early
    trainable: Any
    opt_state: Any
    best: Best | None = None  # None: no rows are left out


class Span(NamedTuple):
    """The steps of a phase that is evaluated."""

    begin: int  # the first step
    stop: int  # one past the last step
    every: int  # steps from one evaluation to the next

    def due(self, step: int) -> bool:
        """Whether the state after so many steps is evaluated."""
        return (step - self.begin) % self.every == 0 or step == self.stop


Step = Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, jax.Array]]]


def init_state(
    trainable: Any, optimizer: optax.GradientTransformation, evaluated: bool = False
) -> TrainState:
    """The state before the first step; with room for the best parameters if it is evaluated."""
    best = None
    if evaluated:
        # Copies: the step donates the state, and no buffer may be donated twice.
        params = jax.tree.map(jnp.copy, trainable)
        best = Best(jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, jnp.float32), params)
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable), best)


def at_average(state: TrainState) -> TrainState:
    """Continues from the average of the iterates of an optimiser that is `averaged`."""
    # A copy: the step donates the state, and no buffer may be donated twice.
    return dataclasses.replace(state, trainable=jax.tree.map(jnp.copy, state.opt_state.mean))


def make_step(
    terms: Terms, optimizer: optax.GradientTransformation, plan: Plan | None = None
) -> Step:
    """Compiles step(state, frozen, batch) -> (state, metrics); the state is donated.

    Every leaf of the batch is [micro-batches, rows, ...]; gradients are accumulated over the
    leading axis. Metrics are the loss, its terms and the norm of the gradient, float32 [] each.

    Args:
      terms: (trainable, frozen, micro_batch) -> the loss as sums and weights.
      optimizer: of the trainable parameters.
      plan: how the step is partitioned over devices; None runs it where its arrays are.
    """

    def step(state: TrainState, frozen: Any, batch: Batch, axis):
        weights = _weights(terms, (state.trainable, frozen), batch, axis)

        def loss_of(trainable, micro):
            with jax.named_scope("loss"):
                return _loss(terms, weights, (trainable, frozen), micro)

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
        return TrainState(state.step + 1, trainable, opt_state, state.best), metrics

    if plan is None:
        return jax.jit(functools.partial(step, axis=None), donate_argnums=0)
    return plan.compile(step)


def make_evaluation(terms: Terms, plan: Plan) -> Step:
    """Compiles evaluate(state, (frozen, span), batch) -> (state, metrics); the state is donated.

    The loss is that of a step, with the averaged parameters of an optimiser that is `averaged`, as
    they would end a round. The state keeps the best parameters since the span began. At its end, or
    after three evaluations without better ones, they become the parameters and their average, and
    the step that of the span's end, for the learning rate too: the steps between are left out.

    Args:
      terms: as of `make_step`.
      plan: how the evaluation is partitioned over devices.
    """

    def evaluate(state: TrainState, given: tuple[Any, Span], batch: Batch, axis):
        (frozen, span), mean = given, state.opt_state.mean
        weights = _weights(terms, (mean, frozen), batch, axis)

        def add(total, micro):
            return total + _loss(terms, weights, (mean, frozen), micro)[0], None

        loss = psum(jax.lax.scan(add, jnp.zeros((), jnp.float32), batch)[0], axis)
        loss = jnp.where(jnp.isnan(loss), jnp.inf, loss)
        before = state.best
        assert before is not None
        better = (state.step == span.begin) | (loss < before.loss)
        best = _where(better, Best(state.step, loss, mean), before)
        state = dataclasses.replace(state, best=best)
        stale = state.step - best.step >= _PATIENCE * span.every
        over = (state.step == span.stop) | stale
        state = _where(over, _ended(state, best.params, span.stop), state)
        return state, {"held_out": loss, "best": best.loss, "best_step": best.step}

    return plan.compile(evaluate)


def _ended(state: TrainState, params: Any, stop: Any) -> TrainState:
    """The state at the end of a span, with these parameters."""
    inner = optax.tree.set(
        state.opt_state.inner,
        lambda path, _: path[-1].tuple_name == "ScaleByScheduleState",
        count=stop,
    )
    opt_state = state.opt_state._replace(inner=inner, mean=params)
    return TrainState(stop, params, opt_state, state.best)


def _where(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), one, other)


def _weights(terms: Terms, params: tuple[Any, Any], batch: Batch, axis) -> dict[str, jax.Array]:
    """The weight of each term over all micro-batches and devices."""

    def weights_of(micro):
        return {name: term.weight for name, term in terms(*params, micro).items()}

    # Weights do not depend on parameters: the compiler removes the rest of this forward pass.
    weights = jax.tree.map(jnp.sum, jax.vmap(weights_of)(batch))
    return jax.tree.map(lambda w: jnp.maximum(w, 1e-9), psum(weights, axis))


def _loss(
    terms: Terms, weights: dict[str, jax.Array], params: tuple[Any, Any], micro: Batch
) -> tuple[Any, dict[str, jax.Array]]:
    """A micro-batch's share of the loss, and of its terms."""
    out = terms(*params, micro)
    parts = {name: term.sum / weights[name] for name, term in out.items()}
    return sum(term.coefficient * parts[name] for name, term in out.items()), parts


def split_micro_batches(batch: Batch, accumulate: int) -> Batch:
    """Reshapes every leaf from [rows, ...] to [micro-batches, rows, ...]."""
    return jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)

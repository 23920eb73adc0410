"""The training loop, for both the base and a control."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from dinado_jax.config.schema import Run
from dinado_jax.data.batch import batches_in
from dinado_jax.distributed import signals
from dinado_jax.distributed.constraints import reduce_scatter_grad
from dinado_jax.distributed.partitioning import Plan, psum
from dinado_jax.distributed.processes import AsyncMax
from dinado_jax.objectives.terms import Term
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.utils.progress import MetricsLog, Progress

Batch = Any  # a pytree of arrays whose leading axis is the row
Terms = Callable[[Any, Any, Batch], dict[str, Term]]

_AHEAD = 2  # steps that devices are given before the ones before them are done


@struct.dataclass
class TrainState:
    """Everything that a resumed run needs; batches are pure functions of the step."""

    step: jax.Array  # int32 scalar, steps done
    trainable: Any
    opt_state: Any


Step = Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, jax.Array]]]


class Diverged(RuntimeError):
    """The loss or its gradient became NaN or infinite."""


def init_state(trainable: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))


def at_average(state: TrainState) -> TrainState:
    """Continues from the average of the iterates of an optimiser that is `averaged`."""
    # A copy: the step donates the state, and no buffer may be donated twice.
    return TrainState(state.step, jax.tree.map(jnp.copy, state.opt_state.mean), state.opt_state)


def restore_or_init(checkpoints: Checkpoints, plan: Plan, make: Callable, *args: Any) -> TrainState:
    """Restores the newest saved state or makes a new one, sharded by the plan.

    Args:
      checkpoints: of the training run.
      plan: how the state is sharded.
      make: function of `args` that returns a new `TrainState`.
      *args: pytrees of arrays.
    """
    saved = checkpoints.restore(plan.abstract(jax.eval_shape(make, *args)))
    return plan.init_sharded(make, *args) if saved is None else plan.shard(saved)


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


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one compiled step."""

    name: str
    step: Step
    batch_at: Callable[[int], Batch]  # pure; the whole batch of all processes
    begin: int  # first step
    stop: int  # one past the last step


@dataclasses.dataclass(frozen=True)
class Loop:
    """What all phases of a training run share."""

    plan: Plan
    accumulate: int  # micro-batches per step
    run: Run
    checkpoints: Checkpoints
    log: MetricsLog

    def fit(self, phase: Phase, state: TrainState, frozen: Any) -> TrainState:
        """Runs the steps state.step .. stop - 1 of a phase; saves regularly and at the end.

        All processes stop at the same step after a signal to any of them.

        Args:
          phase: what to run.
          state: sharded by the plan; donated.
          frozen: the base's parameters, sharded by the plan, or None.

        Returns the state after the phase.

        Raises:
          Diverged: at the first step whose loss or gradient is not finite; no later state is saved,
            the last checkpoint is untouched.
          Stopped: after a signal; the state is saved.
        """
        done = int(state.step)
        if done >= phase.stop:
            return state
        any_signal = AsyncMax()
        length = phase.stop - phase.begin
        with Progress(phase.name, length, "step", done - phase.begin) as progress:
            began, tokens = time.monotonic(), 0

            def log_metrics(steps):
                """Checks that the metrics of these steps are finite, and logs the newest."""
                for now, figures in jax.device_get(steps):
                    if not np.isfinite(list(figures.values())).all():
                        self._raise_diverged(phase, now, figures)
                figures = {name: float(value) for name, value in figures.items()}
                rate = tokens / (time.monotonic() - began)
                self.log.write(now, stage=phase.name, tokens_per_s=round(rate), **figures)
                return {"loss": figures["loss"]}

            pending, log_due = [], False
            for now, (size, batch) in enumerate(self._prefetch(phase, done), done + 1):
                state, metrics = phase.step(state, frozen, batch)
                shown: dict[str, float] = {}
                if log_due:  # one step late, so that the device is busy meanwhile
                    shown, pending = log_metrics(pending), []
                pending.append((now, metrics))
                if len(pending) > _AHEAD:  # a stop has to wait for all steps that devices have
                    jax.block_until_ready(pending[-1 - _AHEAD][1])
                tokens += size
                log_due = now % self.run.log_every == 0
                signum = (any_signal(signals.received_signal()) or [0])[0]
                if now % self.run.save_every == 0 or now == phase.stop or signum:
                    shown, pending, log_due = log_metrics(pending), [], False
                    self.checkpoints.save(now, self.plan.to_host(state))
                progress.advance(1, **shown)
                if signum:
                    raise signals.Stopped(signum)
        return state

    def _raise_diverged(self, phase: Phase, now: int, figures: dict[str, float]) -> NoReturn:
        parts = batches_in(phase.batch_at(now - 1))
        rows = np.concatenate([np.asarray(part.row) for part in parts]).tolist()
        self.log.write(now, stage=phase.name, diverged=True, rows=rows)
        last = self.checkpoints.newest()
        kept = f"its last good checkpoint is {last}" if last else "there is no checkpoint before it"
        raise Diverged(
            f"{phase.name}: the loss is {figures['loss']}, the norm of its gradient "
            f"{figures['grad_norm']}, at step {now}, on rows {str(rows)[:60]}..; {kept}: lower the "
            "learning rate and run again"
        )

    def _prefetch(self, phase: Phase, first: int) -> Iterator[tuple[int, Batch]]:
        """Yields the number of tokens and the micro-batches (on devices) of each step; a thread
        prepares the next ones.
        """

        def prepared(index):
            batch = phase.batch_at(index)
            tokens = sum(part.tokens.size for part in batches_in(batch))
            return tokens, self.plan.shard_batch(split_micro_batches(batch, self.accumulate))

        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(prepared, first)
            for index in range(first, phase.stop):
                ready = coming.result()
                if index + 1 < phase.stop:
                    coming = pool.submit(prepared, index + 1)
                yield ready

"""The training loop, the same for sft and control: read it top to bottom."""

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dinado_jax.config.schema import Run
from dinado_jax.distributed import signals
from dinado_jax.distributed.constraints import reduce_scatter_grad
from dinado_jax.distributed.partitioning import Plan, psum
from dinado_jax.distributed.processes import AsyncMax
from dinado_jax.objectives.terms import Term
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.utils.progress import MetricsLog, Progress

Batch = Any  # a pytree of arrays whose leading axis is the row
Terms = Callable[[Any, Any, Batch], dict[str, Term]]


@flax.struct.dataclass
class TrainState:
    """Everything a resumed run needs; batches follow from the step."""

    step: jax.Array  # int32 scalar, steps done
    trainable: Any
    opt_state: Any


class Diverged(RuntimeError):
    """The loss or its gradient became NaN or infinite."""


def init_state(trainable: Any, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))


def restore_or_init(checkpoints: Checkpoints, plan: Plan, make: Callable, *args: Any) -> TrainState:
    """The newest saved state, or a new one, make(*args), where the plan wants it."""
    saved = checkpoints.restore(plan.abstract(jax.eval_shape(make, *args)))
    return plan.init_sharded(make, *args) if saved is None else plan.shard(saved)


def make_step(terms: Terms, optimizer: optax.GradientTransformation, plan: Plan | None = None):
    """A compiled step(state, frozen, batch) -> (state, metrics); the state is donated. Without a
    plan it runs where its arrays are.

    `terms(trainable, frozen, micro_batch)` gives the loss as sums and weights. Every leaf of the
    batch is [micro-batches, rows, ...]; gradients are accumulated over the leading axis.
    """

    def step(state: TrainState, frozen: Any, batch: Batch, axis):
        def weights_of(micro):
            out = terms(state.trainable, frozen, micro)
            return {name: term.weight for name, term in out.items()}

        # Weights do not depend on parameters, so the compiler drops the rest of this pass.
        weights = jax.tree.map(jnp.sum, jax.vmap(weights_of)(batch))
        weights = jax.tree.map(lambda w: jnp.maximum(w, 1e-9), psum(weights, axis))

        def loss_of(trainable, micro):
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
        # Each device's loss is differentiated by itself, and only then added up.
        metrics, grads = psum(sums, axis)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(state.step + 1, trainable, opt_state), metrics

    if plan is None:
        return jax.jit(functools.partial(step, axis=None), donate_argnums=0)
    return plan.compile(step)


def split_micro_batches(batch: Batch, accumulate: int) -> Batch:
    """[rows, ...] -> [micro-batches, rows, ...] for every leaf."""
    return jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)


def run_steps(
    what: str,
    step: Callable,
    state: TrainState,
    frozen: Any,
    batch_at: Callable[[int], Batch],
    stop: int,
    *,
    plan: Plan,
    accumulate: int,
    run: Run,
    checkpoints: Checkpoints,
    log: MetricsLog,
    begin: int = 0,
) -> TrainState:
    """Runs steps state.step .. stop-1 and saves on the way and at the end; progress is shown of
    this phase, steps begin .. stop-1.

    `state` and `frozen` lie where the plan wants them; `batch_at(step)` is a pure function of the
    step and gives the whole batch of all processes, which stop at the same step after a signal to
    any of them. Diverged names the first step whose loss or gradient is not finite; no later state
    is saved, the last checkpoint stands untouched.
    """
    done = int(state.step)
    if done >= stop:
        return state
    agreed = AsyncMax()
    with Progress(what, stop - begin, "step", done - begin) as progress:
        began, tokens = time.monotonic(), 0

        def told(steps):
            """Figures of the newest of these steps, on the host and in the log."""
            for now, figures in jax.device_get(steps):
                if not np.isfinite(list(figures.values())).all():
                    _diverged(what, now, figures, batch_at(now - 1), checkpoints, log)
            figures = {name: float(value) for name, value in figures.items()}
            rate = tokens / (time.monotonic() - began)
            log.write(now, stage=what, tokens_per_s=round(rate), **figures)
            return {"loss": figures["loss"]}

        pending, due = [], False
        batches = _prefetch(batch_at, plan, accumulate, done, stop)
        for now, (size, batch) in enumerate(batches, done + 1):
            state, metrics = step(state, frozen, batch)
            shown = {}
            if due:  # while the device makes this step
                shown, pending = told(pending), []
            pending.append((now, metrics))
            tokens += size
            due = now % run.log_every == 0
            signum = (agreed(signals.received_signal()) or [0])[0]
            if now % run.save_every == 0 or now == stop or signum:
                shown, pending, due = told(pending), [], False
                checkpoints.save(now, plan.to_host(state), **shown)
            progress.advance(**shown)
            if signum:
                raise signals.Stopped(signum)
    return state


def _diverged(what, step, figures, batch, checkpoints, log) -> NoReturn:
    numbers = _numbers(batch)
    log.write(step, stage=what, diverged=True, rows=numbers)
    last = checkpoints.newest()
    kept = f"its last good checkpoint is {last}" if last else "there is no checkpoint before it"
    raise Diverged(
        f"{what}: the loss is {figures['loss']}, the norm of its gradient {figures['grad_norm']}, "
        f"at step {step}, on rows {str(numbers)[:60]}..; {kept}: lower the learning rate and run "
        "again"
    )


def _numbers(batch):
    """Which rows a batch holds, or each of its parts."""
    if "number" in batch:
        return batch["number"].tolist()
    return {name: _numbers(part) for name, part in batch.items()}


def _prefetch(batch_at: Callable[[int], Batch], plan: Plan, accumulate: int, first: int, stop: int):
    """Yields the tokens and the micro-batches of each step, on the devices; a thread makes the next
    ones meanwhile."""

    def made(index):
        batch = batch_at(index)
        leaves = jax.tree.leaves(batch)
        tokens = sum(x.size for x in leaves if x.ndim == 2 and x.dtype.kind == "i")
        return tokens, plan.shard_batch(split_micro_batches(batch, accumulate))

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(made, first)
        for index in range(first, stop):
            ready = coming.result()
            if index + 1 < stop:
                coming = pool.submit(made, index + 1)
            yield ready

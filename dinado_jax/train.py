"""The training loop, the same for sft and control: read it top to bottom."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dinado_jax import signals
from dinado_jax.checkpoint import Checkpoints
from dinado_jax.config import Run
from dinado_jax.objectives.terms import Term
from dinado_jax.progress import MetricsLog, Progress

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


def start(trainable: Any, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))


def make_step(terms: Terms, optimizer: optax.GradientTransformation):
    """A jitted step(state, frozen, batch) -> (state, metrics); the state is donated.

    `terms(trainable, frozen, micro_batch)` gives the loss as sums and weights. Every leaf of the
    batch is [micro-batches, rows, ...]; gradients are accumulated over the leading axis.
    """

    def step(state: TrainState, frozen: Any, batch: Batch):
        def weights_of(micro):
            out = terms(state.trainable, frozen, micro)
            return {name: term.weight for name, term in out.items()}

        # Weights do not depend on parameters, so the compiler drops the rest of this pass.
        weights = jax.tree.map(lambda w: jnp.maximum(w.sum(), 1e-9), jax.vmap(weights_of)(batch))

        def loss_of(trainable, micro):
            out = terms(trainable, frozen, micro)
            parts = {name: term.sum / weights[name] for name, term in out.items()}
            return sum(term.coefficient * parts[name] for name, term in out.items()), parts

        def accumulate(total, micro):
            (loss, parts), grads = jax.value_and_grad(loss_of, has_aux=True)(state.trainable, micro)
            return jax.tree.map(jnp.add, total, ({"loss": loss, **parts}, grads)), None

        zero = {name: jnp.zeros(()) for name in ("loss", *weights)}
        (metrics, grads), _ = jax.lax.scan(
            accumulate, (zero, jax.tree.map(jnp.zeros_like, state.trainable)), batch
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(state.step + 1, trainable, opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def split(batch: Batch, accumulate: int) -> Batch:
    """[rows, ...] -> [micro-batches, rows, ...] for every leaf."""
    return jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)


def fit(
    what: str,
    step: Callable,
    state: TrainState,
    frozen: Any,
    batch_at: Callable[[int], Batch],
    stop: int,
    *,
    accumulate: int,
    run: Run,
    checkpoints: Checkpoints,
    log: MetricsLog,
) -> TrainState:
    """Runs steps state.step .. stop-1 and saves on the way and at the end.

    `batch_at(step)` is a pure function of the step. Diverged names the step if the loss or its
    gradient is not finite there; no such state is saved, the last checkpoint stands untouched.
    """
    done = int(state.step)
    if done >= stop:
        return state
    with Progress(what, stop, "step", done) as progress:
        began, tokens = time.monotonic(), 0

        def told(now, metrics):
            """The figures of a step, on the host and in the log."""
            figures = {name: float(value) for name, value in metrics.items()}
            if not np.isfinite(list(figures.values())).all():
                raise Diverged(
                    f"{what}: the loss is {figures['loss']}, the norm of its gradient "
                    f"{figures['grad_norm']}, at step {now}; lower the learning rate and run "
                    "again, the last checkpoint is kept"
                )
            rate = tokens / (time.monotonic() - began)
            log.write(now, stage=what, tokens_per_s=round(rate), **figures)
            return {"loss": figures["loss"]}

        untold = None
        for now, (size, batch) in enumerate(_ahead(batch_at, accumulate, done, stop), done + 1):
            state, metrics = step(state, frozen, batch)
            shown = told(*untold) if untold else {}  # while the device makes this step
            untold = (now, metrics) if now % run.log_every == 0 else None
            tokens += size
            stopping = signals.pending()
            if now % run.save_every == 0 or now == stop or stopping:
                shown, untold = told(now, metrics), None
                checkpoints.save(now, state)
            progress.advance(**shown)
            if stopping:
                signals.stop_here()
    return state


def _ahead(batch_at: Callable[[int], Batch], accumulate: int, start: int, stop: int):
    """Yields the tokens and the micro-batches of each step, on the device; a thread makes the next
    ones meanwhile."""

    def made(index):
        batch = batch_at(index)
        leaves = jax.tree.leaves(batch)
        tokens = sum(x.size for x in leaves if x.ndim == 2 and x.dtype.kind == "i")
        return tokens, jax.device_put(split(batch, accumulate))

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(made, start)
        for index in range(start, stop):
            ready = coming.result()
            if index + 1 < stop:
                coming = pool.submit(made, index + 1)
            yield ready

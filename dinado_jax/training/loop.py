"""The training loop, for both the base and a control."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import jax
import numpy as np

from dinado_jax.config.schema import Run
from dinado_jax.data.batch import batches_in
from dinado_jax.distributed import signals
from dinado_jax.distributed.partitioning import Plan
from dinado_jax.distributed.processes import AsyncMax
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.step import Batch, Span, Step, TrainState, split_micro_batches
from dinado_jax.utils.progress import MetricsLog, Progress, print_progress

Evaluate = Callable[[TrainState], tuple[TrainState, dict[str, float]]]

_EVALUATIONS = 10  # of a phase, in equal intervals
_AHEAD = 2  # steps that devices are given before the ones before them are done


class Diverged(RuntimeError):
    """The loss or its gradient became NaN or infinite."""


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


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Rows left out of training, by whose loss a phase ends early and at its best parameters."""

    evaluate: Step  # of `make_evaluation`
    batch: Batch  # the whole batch of all processes
    pieces: int  # the batches of a step that it is as large as


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one compiled step."""

    name: str
    step: Step
    batch_at: Callable[[int], Batch]  # pure; the whole batch of all processes
    begin: int  # first step
    stop: int  # one past the last step
    held_out: HeldOut | None = None  # None: all steps are done, whatever the loss of other rows

    @property
    def span(self) -> Span:
        every = max(1, (self.stop - self.begin) // _EVALUATIONS)
        return Span(self.begin, self.stop, every)


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

        A phase with held-out rows ends earlier if their loss no longer falls, at its best
        parameters; the state's step is then `stop` all the same. All processes stop at the same
        step after a signal to any of them.

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
        evaluate = self._evaluation(phase, frozen)
        if evaluate and done == phase.begin:
            state, _ = evaluate(state)
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
                reached = now
                if evaluate and phase.span.due(now):
                    state, of_held_out = evaluate(state)
                    reached = int(state.step)  # phase.stop where the phase ends
                    finite = {k: x for k, x in of_held_out.items() if math.isfinite(x)}
                    self.log.write(now, stage=phase.name, **finite)
                    shown |= finite
                if now % self.run.save_every == 0 or reached == phase.stop or signum:
                    shown |= log_metrics(pending)
                    pending, log_due = [], False
                    self.checkpoints.save(reached, self.plan.to_host(state))
                progress.advance(1, **shown)
                if signum:
                    raise signals.Stopped(signum)
                if reached == phase.stop:
                    break
        if phase.held_out and state.best:
            best, loss = int(state.best.step) - phase.begin, float(state.best.loss)
            print_progress(
                f"{progress.label}: goes on with the average after {best} of {length} steps, whose "
                f"held-out loss {loss:.4g} is the least"
            )
        return state

    def _evaluation(self, phase: Phase, frozen: Any) -> Evaluate | None:
        """Returns what evaluates a state on the held-out rows of a phase, if it has any."""
        if phase.held_out is None:
            return None
        pieces = phase.held_out.pieces * self.accumulate
        batch = self.plan.shard_batch(split_micro_batches(phase.held_out.batch, pieces))
        given = frozen, jax.tree.map(np.int32, phase.span)
        step = phase.held_out.evaluate

        def evaluate(state: TrainState) -> tuple[TrainState, dict[str, float]]:
            state, metrics = step(state, given, batch)
            return state, {name: value.item() for name, value in jax.device_get(metrics).items()}

        return evaluate

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

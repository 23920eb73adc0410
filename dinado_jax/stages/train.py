"""Stage train: rounds of {sample the current q, judge, weigh, learn} on growing rollouts."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from dinado_jax.base import Base, Controlled
from dinado_jax.checkpoint import Checkpoints
from dinado_jax.config import Config, Train
from dinado_jax.controls.merge import Merge
from dinado_jax.data import Draws, take
from dinado_jax.errors import InputError
from dinado_jax.objectives.control import OBJECTIVES, Warmup
from dinado_jax.optim import optimizer
from dinado_jax.progress import MetricsLog
from dinado_jax.rollouts import (
    Rollouts,
    effective_sample_size,
    importance,
    join,
    success_rate,
)
from dinado_jax.stages.folder import RunFolder
from dinado_jax.stages.rollout import collect, training_prompts
from dinado_jax.stages.sft import trained_base
from dinado_jax.train import TrainState, fit, make_step, start

BatchAt = Callable[[int], dict[str, np.ndarray]]


def make_control(config: Config, base: Base) -> Merge:
    return Merge(base.model, config.delta)


def success_batches(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Batches of successes alone, for the warm-up."""
    draws = Draws(weight * rollouts.label, seed)

    def at(step):
        label = np.ones(train.batch, np.float32)
        return {**take(rollouts, draws.at(step, train.batch)), "label": label}

    return at


def uniform_batches(rollouts: Rollouts, train: Train, seed: int) -> BatchAt:
    """Batches of all rollouts alike, as the published objective has them."""
    draws = Draws(np.ones(len(rollouts)), seed)

    def at(step):
        index = draws.at(step, train.batch)
        return {**take(rollouts, index), "label": rollouts.label[index]}

    return at


def matching_batches(rollouts: Rollouts, weight: np.ndarray, train: Train, seed: int) -> BatchAt:
    """Half a batch of successes for the direction; half of it balanced by label for the norm.

    Within each, rows are drawn by weight, so that successes follow p given C = 1.
    """
    half = train.batch // 2
    successes, failures = weight * rollouts.label, weight * (1 - rollouts.label)
    direction, balance = (
        Draws(successes, seed),
        (Draws(successes, seed + 1), Draws(failures, seed + 2)),
    )
    drawn = ~rollouts.reference
    rate = np.clip(successes[drawn].sum() / weight[drawn].sum(), 1e-6, 1 - 1e-6)
    label = np.repeat(np.float32([1, 0]), half // 2)
    shift = np.full(half, np.log1p(-rate) - np.log(rate), np.float32)

    def at(step):
        norm = np.concatenate([draws.at(step, half // 2) for draws in balance])
        return {
            "direction": {
                **take(rollouts, direction.at(step, half)),
                "label": np.ones(half, np.float32),
            },
            "norm": {**take(rollouts, norm), "label": label, "shift": shift},
        }

    return at


@dataclasses.dataclass(frozen=True)
class Rounds:
    """The rollouts of each round on disk: round 0 is the rollout stage's, later ones sample q."""

    config: Config
    base: Base
    folder: Path
    first: Rollouts

    def upto(self, number: int, control: Merge, params: dict) -> Rollouts:
        """All rollouts of rounds 0 .. number; the newest is sampled now unless it is on disk."""
        parts = [self.first]
        for earlier in range(1, number + 1):
            path = self.folder / f"round_{earlier}.npz"
            if not path.exists():
                self._sample(earlier, control, params).save(path)
            parts.append(Rollouts.load(path))
        return join(parts, self.base.codec.eos_id)

    def _sample(self, number: int, control: Merge, params: dict) -> Rollouts:
        train = self.config.train
        first_id = self.config.rollout.prompts + (number - 1) * train.refresh_prompts
        return collect(
            f"round {number} rollout",
            Controlled(self.base, control, params),
            training_prompts(self.config, first_id, train.refresh_prompts),
            self.config.rollout,
            samples=train.refresh_samples,
            oracle=self.config.task.oracle,
            key=jax.random.key(self.config.seed),
            first_id=first_id,
        ).rollouts


def train(config: Config, run: RunFolder) -> dict:
    """Trains the control; leaves its checkpoints, and its rounds' rollouts, in train/."""
    folder = run.stage("train")
    settings = config.train
    base = trained_base(config, run)
    first = Rollouts.load(run.path / "rollout" / "rollouts.npz")
    rate = success_rate(first)
    if not 0 < rate < 1:
        raise InputError(
            f"the base satisfies the oracle in {rate:.0%} of its samples: there is nothing to "
            "learn; check the oracle, or draw more with rollout.samples"
        )
    control = make_control(config, base)
    transform = optimizer(settings, settings.steps)
    prior = rate if config.control.norm_bias == "success_rate" else 0.5

    def fresh() -> TrainState:
        params = control.init(jax.random.key(config.seed), base.params, prior)
        return start(params, optimizer=transform)

    state = jax.jit(fresh)()
    objective = OBJECTIVES[settings.objective](control, settings.bellman)
    step = make_step(objective.terms, transform)
    warm_step = make_step(Warmup(control).terms, transform)
    rounds = Rounds(config, base, folder, first)
    ends = np.linspace(0, settings.steps, settings.rounds + 1).round().astype(int)[1:].tolist()
    figures: dict = {"trained_values": sum(x.size for x in jax.tree.leaves(state.trainable))}
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = checkpoints.restore(state) or state
        log = MetricsLog(folder / "train.jsonl", int(state.step))
        fit_to = partial(
            fit,
            accumulate=settings.accumulate,
            run=config.run,
            checkpoints=checkpoints,
            log=log,
        )
        for number, end in enumerate(ends):
            if int(state.step) >= end:
                continue
            rollouts = rounds.upto(number, control, state.trainable)
            weight = importance(
                rollouts, settings.weights, settings.weight_clip, settings.reference_weight
            )
            rates = {
                "rollouts": int((~rollouts.reference).sum()),
                "newest_success_rate": float(newest_rate(rollouts, config, number)),
                "effective_successes": effective_sample_size(weight * rollouts.label),
            }
            log.write(int(state.step), stage=f"round {number}", **rates)
            figures[f"round_{number}"] = rates
            warm_end = min(end, settings.warmup_direction)
            if int(state.step) < warm_end:
                warm = success_batches(rollouts, weight, settings, config.seed)
                state = fit_to("warm-up", warm_step, state, base.params, warm, warm_end)
            if settings.objective == "matching":
                batches = matching_batches(rollouts, weight, settings, config.seed)
            else:
                batches = uniform_batches(rollouts, settings, config.seed)
            state = fit_to(f"train round {number}", step, state, base.params, batches, end)
    return figures


def newest_rate(rollouts: Rollouts, config: Config, number: int) -> float:
    """Unweighted success rate of the newest round's samples: how well that q did."""
    first_id = 0
    if number:
        first_id = config.rollout.prompts + (number - 1) * config.train.refresh_prompts
    newest = (rollouts.prompt_id >= first_id) & ~rollouts.reference
    return rollouts.label[newest].mean()


def trained_model(config: Config, run: RunFolder) -> Controlled:
    """The base under the control that the train stage left."""
    base = trained_base(config, run)
    control = make_control(config, base)
    transform = optimizer(config.train, config.train.steps)

    def fresh() -> TrainState:
        return start(control.init(jax.random.key(0), base.params, 0.5), optimizer=transform)

    with Checkpoints(run.path / "train" / "checkpoints") as checkpoints:
        state = checkpoints.restore(jax.eval_shape(fresh))
    if state is None:
        raise InputError(f"no trained control in {run.path}: run the train stage first")
    return Controlled(base, control, state.trainable)

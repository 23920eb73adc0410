"""Trains a control in a world with the rollouts, weights, batches and objectives of a run.

S sequences of the world; N rollouts; rows of T tokens.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dinado_jax.automata.conjunction import Conjunction
from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.distributed import signals
from dinado_jax.exact.measure import evaluate_sequences, measure
from dinado_jax.exact.world import Optimum, World
from dinado_jax.objectives.table import phases
from dinado_jax.objectives.terms import Objective
from dinado_jax.rollouts.arrays import Rollouts, concatenate
from dinado_jax.rollouts.automata import log_rates_by_state, with_automata
from dinado_jax.rollouts.weighting import exclusive_cumsum, importance_weights, log_mixture_weight
from dinado_jax.training.loop import Diverged
from dinado_jax.training.optimizer import optimizer
from dinado_jax.training.step import TrainState, init_state, make_step, split_micro_batches

Params = dict[str, Any]
Draw = Callable[[Params | None, int, int], Rollouts]  # (parameters of q or None for p, N, round)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A control to train in a world, on rollouts from `draw`."""

    world: World
    optimum: Optimum
    control: Control
    base_params: Params
    draw: Draw
    automata: Conjunction | None = None  # of the prompt [1, ..], for a control with state

    def evaluated(self, params: Params, chosen: np.ndarray | None = None) -> list[np.ndarray]:
        """See `evaluate_sequences`."""
        given = self.world, self.control, self.base_params, params
        return evaluate_sequences(*given, self.automata, chosen)

    def measured(self, params: Params) -> dict[str, float]:
        """See `measure`."""
        given = self.world, self.optimum, self.control, self.base_params, params
        return measure(*given, self.automata)


def enumerated(
    world: World, optimum: Optimum, control: Control, base_params: Params, seed: int
) -> Draw:
    """Returns a `Draw` that samples whole sequences by their enumerated probabilities."""

    def draw(params: Params | None, count: int, number: int) -> Rollouts:
        rng = np.random.default_rng((world.seed, seed, number, params is None))
        p, log_ratio = np.exp(optimum.log_p), np.zeros(world.inside.shape)
        if params is not None:
            log_ratio = evaluate_sequences(world, control, base_params, params)[1]
        q = p * np.exp(log_ratio.sum(1))
        index = rng.choice(len(q), count, p=q / q.sum())
        return judged(world, optimum, index, log_ratio[index], 0.0, number)

    return draw


def judged(
    world: World,
    optimum: Optimum,
    index: np.ndarray,
    log_ratio: np.ndarray,
    alpha: float,
    number: int,
) -> Rollouts:
    """Returns sequences of the world as rollouts with their labels.

    Args:
      index: int [N], which sequences.
      log_ratio: float [N, T-1], log q / p of every token in nats; 0 after a row's end.
      alpha: share of p in the proposal alpha p + (1 - alpha) q that they were drawn from.
      number: of the round.
    """
    rows = world.rows
    log_base = optimum.log_p[index].astype(np.float32)
    return Rollouts(
        tokens=rows.tokens[index],
        prompt_length=rows.prompt_length[index],
        length=rows.length[index],
        label=optimum.label[index],
        log_base=log_base,
        log_proposal=log_base - log_mixture_weight(log_ratio.sum(1), alpha),
        log_prefix=log_mixture_weight(exclusive_cumsum(log_ratio), alpha),
        prompt_id=np.zeros(len(index), np.int32),
        finished=np.ones(len(index), bool),
        round=np.full(len(index), number, np.int32),
    )


@functools.lru_cache(64)
def _trainer(control: Control, objective: Objective, train: Train) -> Callable[..., Any]:
    """A program of many steps: (state, base_params, stacked batches) -> (state, metrics)."""
    step = make_step(functools.partial(objective.terms, control), optimizer(train, train.steps))

    @jax.jit
    def steps(state: TrainState, base_params: Params, stacked: Any) -> tuple[TrainState, Any]:
        return jax.lax.scan(lambda state, batch: step(state, base_params, batch), state, stacked)

    return steps


def learn(
    setting: Setting, train: Train, budget: int, norm_bias: str, seed: int
) -> tuple[Params, list[dict[str, float]]]:
    """Trains for `train.steps` in rounds of equally many rollouts.

    Rounds after the first draw a share `train.mixture` from the base and the rest from the current
    q. Training starts once there are both successes and failures: objectives are undefined before.

    Args:
      budget: rollouts in all rounds together.
      norm_bias: as of `compare.compare`.
      seed: of parameters and batches.

    Returns:
      The parameters, and a record of each round: steps, rollouts, the figures of `measure` and the
      losses at its end.

    Raises:
      Diverged: a loss is not finite.
    """
    control, base_params = setting.control, setting.base_params
    ends = np.linspace(0, train.steps, train.rounds + 1).round().astype(int).tolist()
    sizes = np.diff(np.linspace(0, budget, train.rounds + 1).round().astype(int))
    state, rollouts, curve = None, None, []
    for number, (begin, end) in enumerate(itertools.pairwise(ends)):
        signals.raise_if_stopped()
        params = state.trainable if state is not None and number else None
        new = draw_round(setting, params, int(sizes[number]), train.mixture, number)
        rollouts = new if rollouts is None else concatenate([rollouts, new], 0)
        if state is None and 0 < rollouts.label.mean() < 1:
            prior = float(rollouts.label.mean()) if norm_bias == "success_rate" else 0.5
            rates = _log_rates(setting, rollouts)
            params = control.init(jax.random.key(seed), base_params, prior, rates)
            state = init_state(params, optimizer(train, train.steps))
        if state is None:
            continue
        state, metrics = _train_round(setting, train, rollouts, state, (begin, end), seed)
        figures = setting.measured(state.trainable)
        curve.append({"steps": end, "rollouts": len(rollouts), **figures, **metrics})
    if state is None:
        params = control.init(jax.random.key(seed), base_params, 0.5)
        figures = setting.measured(params)
        return params, [{"steps": 0, "rollouts": budget, **figures}]
    return state.trainable, curve


def draw_round(
    setting: Setting, params: Params | None, count: int, alpha: float, number: int
) -> Rollouts:
    """Draws the rollouts of a round: from the base in the first one, from the mixture later.

    Args:
      params: of q; None in the first round.
      alpha: share of the base in the mixture.
      number: of the round, part of the seed.
    """
    if params is None:
        return setting.draw(None, count, number)
    of_base = round(alpha * count)
    parts = [(None, of_base), (params, count - of_base)]
    parts = [setting.draw(source, n, number) for source, n in parts if n]
    rows = concatenate(parts, 0)
    if len(parts) == 1:
        return rows
    index = setting.world.index(rows.tokens)
    distinct, place = np.unique(index, return_inverse=True)
    log_ratio = setting.evaluated(params, distinct)[1][place]
    return judged(setting.world, setting.optimum, index, log_ratio, of_base / count, number)


def _log_rates(setting: Setting, rollouts: Rollouts) -> np.ndarray | None:
    """Where a control with state begins, from rollouts of the base."""
    if setting.automata is None or setting.control.state is None:
        return None
    weight, number = np.ones(len(rollouts)), _number(rollouts)
    return log_rates_by_state(setting.control.state, rollouts, weight, setting.automata, number)


def _number(rollouts: Rollouts) -> np.ndarray:
    """All have the one prompt."""
    return np.zeros(len(rollouts), int)


def _train_round(
    setting: Setting,
    train: Train,
    rollouts: Rollouts,
    state: TrainState,
    steps: tuple[int, int],
    seed: int,
) -> tuple[TrainState, dict[str, float]]:
    """Trains steps[0] .. steps[1] - 1 on these rollouts; returns the state and the last losses."""
    begin, end = steps
    weight = importance_weights(rollouts, train.weights, train.weight_clip, 0.0)
    metrics = {}
    for until, objective in phases(train):
        until = min(until, end)
        if until <= begin:
            continue
        batch_at = objective.batches(rollouts, weight, seed)
        if setting.automata is not None:
            batch_at = with_automata(batch_at, setting.automata, _number(rollouts))
        each = [split_micro_batches(batch_at(step), 1) for step in range(begin, until)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        trainer = _trainer(setting.control, objective, train)
        state, along_steps = trainer(state, setting.base_params, stacked)
        metrics = {f"loss_{k}": float(v[-1]) for k, v in along_steps.items()}
        if not all(map(math.isfinite, metrics.values())):
            raise Diverged(f"a loss is not finite at step {until}; lower train.learning_rate")
        begin = until
    return state, metrics

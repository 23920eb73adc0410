"""What a round of training learns from, and what it is evaluated on. N rows."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from dinado_jax.automata.conjunction import Conjunction
from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.errors import InputError
from dinado_jax.objectives.table import phases
from dinado_jax.objectives.terms import BatchAt, Objective
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.automata import with_automata
from dinado_jax.rollouts.held_out import held_out_rows, of_rows
from dinado_jax.rollouts.hidden_states import HiddenStates, with_states
from dinado_jax.training.loop import HeldOut
from dinado_jax.training.step import Step

_MOST = 8  # batches of a step, of those that are evaluated at once


@dataclasses.dataclass(frozen=True)
class RoundData:
    """The rollouts of a round and all before it, with what their batches carry besides.

    Raises:
      InputError: if held-out rows, or the others, have no success or no failure.
    """

    control: Control
    settings: Train
    seed: int
    rollouts: Rollouts  # N rows
    weight: np.ndarray  # float [N], their importance weights
    states: HiddenStates | None  # of the base; None: training recomputes them
    automata: tuple[Conjunction, np.ndarray] | None  # of the prompts, and which are each row's

    def __post_init__(self) -> None:
        if self.settings.held_out:
            for rows, which in zip(self._rows, ("the other", "held-out")):
                self._check(rows, which)

    @functools.cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the rows to train on, and of those held out."""
        held = held_out_rows(self.rollouts, self.settings.held_out)
        return np.flatnonzero(~held), np.flatnonzero(held)

    def _check(self, rows: np.ndarray, which: str) -> None:
        sampled = rows[~self.rollouts.reference[rows]]
        weight, label = self.weight[sampled], self.rollouts.label[sampled]
        for what, mass in (("succeeds", weight * label), ("fails", weight * (1 - label))):
            if not mass.sum():
                raise InputError(
                    f"train.held_out = {self.settings.held_out}: none of the {len(sampled)} "
                    f"rollouts of {which} prompts {what}; draw more with rollout.prompts or "
                    "rollout.samples, or set train.held_out=0"
                )

    def batches(self, objective: Objective) -> BatchAt:
        """Returns the batch of each step."""
        batches = objective.batches
        if not self.settings.held_out:
            return self._filled(objective, batches(self.rollouts, self.weight, self.seed))
        return self._filled(objective, self._of(batches, self._rows[0]))

    def held_out(self, number: int, evaluate: Step, stop: int) -> HeldOut | None:
        """Returns the rows left out, drawn as the objective draws its own; None for none.

        They are drawn once for all evaluations of a phase, twice as many as there are, up to eight
        times the rows of a step.

        Args:
          number: of the objective in `phases`.
          evaluate: of `make_evaluation`.
          stop: one past the last step of the phase, whose lambda is used.
        """
        if not self.settings.held_out:
            return None
        rows, batch = self._rows[1], self.settings.batch
        pieces = min(_MOST, -(-2 * len(rows) // batch))
        _, objective = phases(dataclasses.replace(self.settings, batch=pieces * batch))[number]
        batch_at = self._filled(objective, self._of(objective.batches, rows))
        return HeldOut(evaluate, batch_at(stop - 1), pieces)

    def _of(self, batches: Callable[..., BatchAt], rows: np.ndarray) -> BatchAt:
        return of_rows(batches, self.rollouts, self.weight, self.seed, rows)

    def _filled(self, objective: Objective, batch_at: BatchAt) -> BatchAt:
        """With what batches carry besides the rows."""
        if self.states is not None:
            batch_at = with_states(batch_at, self.states, objective.reads_states(self.control))
        if self.automata is not None:
            batch_at = with_automata(batch_at, *self.automata)
        return batch_at

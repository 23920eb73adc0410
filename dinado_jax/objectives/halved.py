"""Objectives of two halves: a loss of q for the direction, and labels for the norm."""

import dataclasses
from typing import Any, Protocol, cast

import jax
import numpy as np
from flax import struct

from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.objectives.draws import NormBatch, norm_rows
from dinado_jax.objectives.norm import prompt_rate, value_terms
from dinado_jax.objectives.terms import BatchAt, RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts


@struct.dataclass(kw_only=True)
class Halves:
    """Half of the rows for the direction, half for the norm."""

    direction: Any  # the `Batch` of the direction's loss
    norm: NormBatch


class DirectionLoss(Protocol):
    """What differs between these objectives: the rows for the direction, and their loss."""

    weighted: bool  # whether importance weights reach it
    least_samples: int  # per prompt, from which it can learn
    settings: frozenset[str]  # of `train`, that it alone reads

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        """Rows for the direction; arguments as `Objective.batches`."""
        ...

    def term(self, control: Control, params: dict, base_params: dict, batch: Any) -> Term:
        """The loss of q on them, in nats."""
        ...


@dataclasses.dataclass(frozen=True)
class Halved:
    """An objective from a loss of the direction.

    With `train.detach` direction and norm are disentangled in the gradient too: the norm's losses
    see the direction as a constant, and need no backward pass through its trunk. Where R recurs
    from the prompt, its value there is all that they teach. Where both are one (nado), nothing is
    detached.
    """

    train: Train
    loss: DirectionLoss
    parts = 2

    @property
    def least_samples(self) -> int:
        return self.loss.least_samples

    @property
    def draws_references(self) -> bool:
        return self.train.reference_weight > 0

    def batches(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> BatchAt:
        direction = self.loss.rows(rollouts, weight, seed)
        norm = norm_rows(rollouts, weight, self.train, seed)
        half = self.train.batch // 2
        return lambda step: Halves(
            direction=direction(step, half), norm=cast(NormBatch, norm(step, half))
        )

    def terms(
        self, control: Control, params: dict, base_params: dict, batch: Halves
    ) -> dict[str, Term]:
        direction = self.loss.term(control, params, base_params, batch.direction)
        detach = self.train.detach
        if detach and not control.entangled:
            params = {**params, "direction": jax.lax.stop_gradient(params["direction"])}
        if detach and control.recursive:
            norm = {"rate": prompt_rate(control, params, base_params, batch.norm)}
        else:
            norm = value_terms(control, params, base_params, batch.norm)
        return {"direction": direction, **norm}

    def reads_states(self, control: Control) -> tuple[str, ...]:
        # A direction that is a policy of its own scores its rows without the base.
        return ("norm",) if control.scores_alone else ("direction", "norm")

    def settings_read(self, kind: str) -> set[str]:
        read = {"balance", "reference_weight"}
        if kind != "nado":
            read.add("detach")
        # A norm that learns nothing but rates leaves the weights to the direction's loss.
        if self.loss.weighted or not (kind == "hard" and self.train.detach):
            read.add("weights")
        return read | self.loss.settings

"""Objectives with two losses: one of q for the direction, one of labels for the norm."""

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
class TwoPartBatch:
    """One half of the rows trains the direction, the other half the norm."""

    direction: Any  # the `Batch` of the direction's loss
    norm: NormBatch


class DirectionLoss(Protocol):
    """The part in which these objectives differ: the rows for the direction, and their loss."""

    least_samples: int  # per prompt, at least
    settings: frozenset[str]  # of `train` that only this loss reads

    @property
    def weighted(self) -> bool:
        """Whether it uses importance weights."""
        ...

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        """Draws rows for the direction; arguments as for `Objective.batches`."""
        ...

    def term(self, control: Control, params: dict, base_params: dict, batch: Any) -> Term:
        """Computes the loss of q on these rows, in nats."""
        ...


@dataclasses.dataclass(frozen=True)
class DirectionAndNorm:
    """An objective made from a loss of the direction.

    With `train.detach` direction and norm have separate gradients: the norm's losses treat the
    direction as a constant, and need no backward pass through its trunk. In the recursive forms
    they then train only the prompt's value. In nado, where one network is both, nothing is
    detached.
    """

    train: Train
    loss: DirectionLoss
    parts: int = 2  # direction and norm; times the rows that the loss must find together
    reads_base: bool = False  # the direction's loss reads what the base computes
    trains_hard: bool = True
    on_policy: bool = False
    trains_nado = True

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
        return lambda step: TwoPartBatch(
            direction=direction(step, half), norm=cast(NormBatch, norm(step, half))
        )

    def terms(
        self, control: Control, params: dict, base_params: dict, batch: TwoPartBatch
    ) -> dict[str, Term]:
        direction = self.loss.term(control, params, base_params, batch.direction)
        detach = self.train.detach
        if detach and not control.entangled:
            constant = {name: params[name] for name in ("direction", "state") if name in params}
            params = {**params, **jax.lax.stop_gradient(constant)}
        if detach and control.recursive:
            norm = {"rate": prompt_rate(control, params, base_params, batch.norm)}
        else:
            norm = value_terms(control, params, base_params, batch.norm)
        return {"direction": direction, **norm}

    def reads_states(self, control: Control) -> tuple[str, ...]:
        # A direction with link "policy" scores its rows without the base.
        alone = control.scores_alone and not self.reads_base
        return ("norm",) if alone else ("direction", "norm")

    def settings_read(self, kind: str) -> set[str]:
        read = {"balance", "reference_weight"}
        if kind != "nado":
            read.add("detach")
        if kind != "hard":
            read.add("bellman")
        # A norm that learns only rates does not use the weights.
        if self.loss.weighted or not (kind == "hard" and self.train.detach):
            read.add("weights")
        if self.loss.weighted:
            read.add("weight_clip")
        return read | self.loss.settings

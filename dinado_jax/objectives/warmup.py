"""Warm-up: maximum likelihood of successes, for the direction only."""

import dataclasses

import numpy as np

from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.objectives.draws import LabeledBatch, successes
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.terms import BatchAt, Term
from dinado_jax.rollouts.arrays import Rollouts


@dataclasses.dataclass(frozen=True)
class Warmup:
    """The first `train.warmup_direction` steps: trains the unprojected q, whatever the form.

    The norm has no gradient, except in nado, where one network is both direction and norm.
    """

    train: Train
    parts = 1
    least_samples = 1
    trains_nado = True
    trains_hard = True
    on_policy = False

    @property
    def draws_references(self) -> bool:
        return self.train.reference_weight > 0

    def batches(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> BatchAt:
        rows = successes(rollouts, weight, seed)
        return lambda step: rows(step, self.train.batch)

    def terms(
        self, control: Control, params: dict, base_params: dict, batch: LabeledBatch
    ) -> dict[str, Term]:
        log_q = log_row(control.log_direction(base_params, params, batch), batch)
        return {"direction": Term(-(batch.label * log_q).sum(), batch.label.sum())}

    def reads_states(self, control: Control) -> tuple[str, ...]:
        return () if control.scores_alone else ("",)

    def settings_read(self, kind: str) -> set[str]:
        return {"weights", "weight_clip", "reference_weight"}

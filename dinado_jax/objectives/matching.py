"""Distribution matching: maximum likelihood of successes, weighted by p / proposal."""

import dataclasses

import numpy as np

from dinado_jax.controls.control import Control
from dinado_jax.objectives.draws import LabeledBatch, successes
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """`train.objective = "matching"`: negative log-likelihood of q on successes.

    With rows drawn from p given C = 1 this is KL(q* || q) up to a constant.
    """

    weighted = True
    least_samples = 1
    settings = frozenset()

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        return successes(rollouts, weight, seed)

    def term(self, control: Control, params: dict, base_params: dict, batch: LabeledBatch) -> Term:
        likelihood = batch.label * log_row(control.log_policy(base_params, params, batch), batch)
        return Term(-likelihood.sum(), batch.label.sum())

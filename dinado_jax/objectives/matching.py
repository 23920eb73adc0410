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

    It is DPG (Parshakova et al., arXiv 1912.08517; per prompt CDPG, Korbak et al., arXiv
    2112.00791), the gradient E_d[(p C / (Z d)) grad log q] with Z = R0(prompt), except that
    - Z is not estimated by itself: a prompt's weights p C / d are normalised to sum to 1 over all
      its rows, which is biased by O(1 / rows of the prompt), where a known Z would not be;
    - rows are drawn in proportion to their weights and then count equally, which has the same
      expectation;
    - all rounds serve, each row with its own proposal d, and no proposal is kept for a lower KL;
    - weights are cut at the quantile `train.weight_clip`;
    - a prompt without a success has no part in it, instead of a Z of 0.
    """

    weighted = True
    least_samples = 1
    settings = frozenset({"particles"})

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        return successes(rollouts, weight, seed)

    def term(self, control: Control, params: dict, base_params: dict, batch: LabeledBatch) -> Term:
        likelihood = batch.label * log_row(control.log_policy(base_params, params, batch), batch)
        return Term(-likelihood.sum(), batch.label.sum())

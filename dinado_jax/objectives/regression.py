"""Regression of log q of successes on what it is at the optimum, while failures lose their mass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control, StepInputs
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.bound import lost_excess, prefix_excess, value_excess
from dinado_jax.objectives.draws import log_proposal, sampling_weights
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.residual import huber, is_success, mass
from dinado_jax.objectives.terms import RowsAt, Term
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import optimal_ratio, success_rate_per_prompt

_FAILURE = 8.0  # nats: the pull on a failure as probable as when it was drawn


@struct.dataclass(kw_only=True)
class TargetBatch(Batch):
    """Rows of any proposal d, successes and failures."""

    label: Array  # float32 [B] in [0, 1]
    target: Array  # float32 [B], log q of the row at the optimum, nats; of successes
    log_rate: Array  # float32 [B], log R0 of the row's prompt, nats
    optimal_ratio: Array  # float32 [B], q* / d of the row
    log_proposal: Array  # float32 [B], log d in nats; inf for references, which have no proposal


@dataclasses.dataclass(frozen=True)
class RowRegression:
    """Loss (nats) of a row, in four parts.

    Successes, rows of C > e^-margin: Huber's loss of their log-probability against

        log q(y) = log p(y) + log C(y) - log R0(prompt)

    which holds whatever drew them: once q is right no draw is noise any more, as it is for a
    likelihood. The projection of a projected R is inactive at the optimum, so the loss uses the
    unprojected q for every form. (The recursion of R taken at its end alone: the path consistency
    of Nachum et al., arXiv 1702.08892, and trajectory balance, Malkin et al., arXiv 2201.13259.)

    Failures: 8 q / d, whose mean over draws of d is eight times the probability that q fails. It
    pulls at what q still draws and lets go of the rest; a target for failures, however low, pulls
    at rows that q has long left, and drives their mass to texts that nobody has drawn.

    Both speak of rows that were drawn, and what failures lose could go to any other. Two terms
    restrain that. The excess of values over 1 (`bound.py`) bounds every next token of the
    vocabulary: where all continuations of a prefix fail, pushing down those that were drawn would
    otherwise raise the others without end. The likelihood of successes, -(q* / d) log q(y) times
    `anchor`, has a gradient that lowers whatever is not drawn, and is 0 in expectation at the
    optimum.

    With the state of the oracle q never draws a failure that the state shows. What teaches it then
    is at which prefixes the base would fail (`prefix_excess`, `lost_excess`).

    Converges to q*. Rows are drawn uniformly, so that with a rare oracle few rows of a batch are
    successes before q finds them, and more steps, rows or a larger learning rate are needed than
    for objectives that draw successes (docs/objectives.md).
    """

    margin: float  # nats
    anchor: float  # coefficient of the likelihood
    bound: float  # coefficient of values above 1
    prefix_bound: float  # of values of prefixes above what can still succeed
    least_samples = 1
    settings = frozenset({"margin", "anchor", "bound", "prefix_bound", "particles"})

    @classmethod
    def of(cls, train: Train) -> "RowRegression":
        return cls(train.margin, train.anchor, train.bound, train.prefix_bound)

    @property
    def weighted(self) -> bool:
        return self.anchor > 0

    def rows(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> RowsAt:
        drawn = sampling_weights(rollouts, weight)
        draws = Draws(drawn, seed)
        ratio = optimal_ratio(weight * rollouts.label, rollouts.prompt_id, ~rollouts.reference)
        # References are drawn by their weight, which is then counted once.
        ratio = (ratio / np.where(drawn > 0, drawn, 1.0)).astype(np.float32)
        label = np.maximum(rollouts.label, np.exp(-self.margin))  # failures: a finite logarithm
        log_rate = np.log(success_rate_per_prompt(rollouts)).astype(np.float32)
        target = (rollouts.log_base + np.log(label) - log_rate).astype(np.float32)
        proposal = log_proposal(rollouts)

        def at(step: int, count: int) -> TargetBatch:
            index = draws.at(step, count)
            return TargetBatch(
                **vars(take(rollouts, index)),
                label=rollouts.label[index],
                target=target[index],
                log_rate=log_rate[index],
                optimal_ratio=ratio[index],
                log_proposal=proposal[index],
            )

        return at

    def term(self, control: Control, params: dict, base_params: dict, batch: TargetBatch) -> Term:
        loss = self.losses(control.step_inputs(base_params, params, batch), batch)
        return Term(loss.sum(), jnp.ones_like(loss).sum())

    def losses(self, step_inputs: StepInputs, batch: TargetBatch) -> jax.Array:
        """Computes the loss of every row: [B] nats."""
        scalars = step_inputs.scalars
        log_q = log_row(scalars.log_policy, batch)
        miss = huber(log_q - batch.target)
        failure = _FAILURE * mass(log_q - batch.log_proposal)
        loss = jnp.where(is_success(batch.label, self.margin), miss, failure)
        loss += self.bound * value_excess(scalars, batch.log_rate, batch)
        loss += self.prefix_bound * prefix_excess(scalars, batch.log_rate, batch)
        loss += lost_excess(scalars, batch.log_rate, batch)
        return loss - self.anchor * batch.optimal_ratio * log_q

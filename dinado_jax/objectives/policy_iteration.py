"""Soft policy iteration: the norm learns what q achieves after each prefix, the direction follows.

B rows of T tokens.
"""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.controls.recursion import Values
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.batching import Draws, take
from dinado_jax.objectives.draws import bellman_at
from dinado_jax.objectives.regression import RowRegression, TargetBatch
from dinado_jax.objectives.residual import huber
from dinado_jax.objectives.terms import BatchAt, Term
from dinado_jax.ops import bernoulli
from dinado_jax.ops.masks import target_mask
from dinado_jax.rollouts.arrays import Rollouts

_ROWS = 0.3  # coefficient of the regression of whole rows


@struct.dataclass(kw_only=True)
class NewestBatch(Batch):
    """Samples of d, q as it was when the newest round began: in the first round the base."""

    label: Array  # float32 [B] in [0, 1]
    to_go: Array  # float32 [B, T-1], log C - log (d / p) of what follows each prefix, nats
    of_base: Array  # float32 [B], 1 for the base's own samples
    bellman: Array  # float32 [B], lambda of this step


@struct.dataclass(kw_only=True)
class PolicyIterationBatch:
    """One half of the rows has any proposal, the other half are samples of the newest q."""

    rows: TargetBatch
    newest: NewestBatch


@dataclasses.dataclass(frozen=True)
class PolicyIteration:
    """`train.objective = "policy_iteration"`: three losses (nats).

    Of q as it was when the round began, d, every sample tells what it achieves after each of its
    prefixes, C being cut at e^-margin:

        G(s_t) = log C - sum_{i >= t} log (d / p)(y_i | s_i)

    The norm learns its mean, with Huber's loss: V(s) = E_d[G(s)] = log R(s) - KL(d || q* | s), the
    value of d as a policy whose reward is log C less its KL. The direction learns, times lambda
    (`train.bellman`),

        log (q / p)(y_t | s_t) = V(s_t, y_t) - V(s_t)

    at every token of d but the last: the ends of texts are learned from whole rows alone, as they
    drift otherwise. This is the improvement of soft policy iteration (Haarnoja et
    al., arXiv 1801.01290), q proportional to p e^V: no policy is worse than the one before, and q*,
    with V = log R, is its only fixed point. Direction and norm do not move what the other learns.
    The third loss is that of whole rows, of any round (`regression.py`), times .3. In the first
    round, whose samples are the base's, the direction has no other, and the norm learns R from the
    labels: log R of prefixes that mostly fail is noise, for lack of successes.

    A row of which one token was wrong is at fault there, not in all its tokens, which the loss of
    whole rows lowers alike; nor is a small R lost in the noise of labels, as for `prefixes`, since
    V is learned as a logarithm. Where the constraint is known not to be violated, as with the state
    of the oracle, what q does after a mistake is all that costs.
    """

    train: Train
    parts = 2
    least_samples = 1
    trains_nado = False
    trains_hard = False  # V of the recursive forms is a function of q
    on_policy = True

    @property
    def _of_rows(self) -> RowRegression:
        return RowRegression.of(self.train)

    @property
    def draws_references(self) -> bool:
        return self.train.reference_weight > 0

    def batches(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> BatchAt:
        half, rows = self.train.batch // 2, self._of_rows.rows(rollouts, weight, seed)
        sampled = ~rollouts.reference & ~rollouts.particle
        newest = sampled & (rollouts.round == rollouts.round[sampled].max())
        draws = Draws(newest.astype(np.float64), seed + 1)
        log_label = np.log(np.maximum(rollouts.label, np.exp(-self.train.margin)))
        whole = log_label + rollouts.log_base - rollouts.log_proposal
        to_go = (whole[:, None] - rollouts.log_prefix).astype(np.float32)

        def at(step: int) -> PolicyIterationBatch:
            index = draws.at(step, half)
            batch = take(rollouts, index)
            newest = NewestBatch(
                **vars(batch),
                label=rollouts.label[index],
                to_go=to_go[index, : batch.tokens.shape[1] - 1],
                of_base=(rollouts.round[index] == 0).astype(np.float32),
                bellman=bellman_at(self.train, step, half),
            )
            return PolicyIterationBatch(rows=cast(TargetBatch, rows(step, half)), newest=newest)

        return at

    def terms(
        self, control: Control, params: dict, base_params: dict, batch: PolicyIterationBatch
    ) -> dict[str, Term]:
        row = self._of_rows.losses(control.step_inputs(base_params, params, batch.rows), batch.rows)
        newest = batch.newest
        inputs = control.step_inputs(base_params, params, newest)
        constant = inputs._replace(scalars=jax.lax.stop_gradient(inputs.scalars))
        values, mask = control.unroll(constant, newest), target_mask(newest)
        with jax.named_scope("policy_iteration"):
            value = self._value_penalties(values, newest)
            log_ratio = inputs.scalars.log_policy - inputs.scalars.log_base
            advantage, moved = self._advantages(jax.lax.stop_gradient(values.log_value), newest)
            miss = moved * huber(log_ratio - advantage)
        count = jnp.ones_like(newest.label).sum()
        return {
            "direction": Term(row.sum(), jnp.ones_like(row).sum(), _ROWS),
            "value": Term((mask * value).sum(), mask.sum()),
            "advantage": Term(miss.sum(), count, newest.bellman[0]),
        }

    def _value_penalties(self, values: Values, batch: NewestBatch) -> jax.Array:
        """The loss of V before each target: [B, T-1] nats."""
        of_label = bernoulli.cross_entropy(values.value_logit, batch.label[:, None])
        of_log = huber(values.log_value - batch.to_go)
        return jnp.where(batch.of_base[:, None] > 0, of_label, of_log)

    def _advantages(self, log_value: jax.Array, batch: NewestBatch) -> tuple[jax.Array, jax.Array]:
        """What each target of q but the last adds to log V, [B, T-1] nats; a mask of those."""
        column = jax.lax.broadcasted_iota(jnp.int32, log_value.shape, 1)
        moved = target_mask(batch) * (column < batch.length[:, None] - 2)
        moved *= 1 - batch.of_base[:, None]
        return jnp.roll(log_value, -1, axis=1) - log_value, moved

    def reads_states(self, control: Control) -> tuple[str, ...]:
        return ("rows", "newest")

    def settings_read(self, kind: str) -> set[str]:
        read = {*self._of_rows.settings, "reference_weight", "bellman"}
        return read | {"weights", "weight_clip"} if self.train.anchor else read

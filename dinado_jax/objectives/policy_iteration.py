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
_CAP = 50.0  # nats, of a log-weight: larger ones would overflow


@struct.dataclass(kw_only=True)
class NewestBatch(Batch):
    """Samples of d, q as it was when the newest round began: in the first round the base."""

    label: Array  # float32 [B] in [0, 1]
    log_label: Array  # float32 [B], log C, at least -margin, nats
    log_weight: Array  # float32 [B, T-1], log p / d of what follows each prefix, nats
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

    Let d be q as it was when the newest round began. A sample of d shows how well d does after each
    of its prefixes:

        G(s_t) = log max(C, e^-margin) - sum_{i >= t} log (d / p)(y_i | s_i)

    The norm learns the mean of G by Huber's loss, log V(s) = log R(s) - KL(d || q* | s): the value
    of the policy d whose reward is log C and whose cost is its KL to the base. The direction
    learns, times lambda (`train.bellman`),

        log (q / p)(y_t | s_t) = log V(s_t, y_t) - log V(s_t)

    at every token of d except the last: prefix losses that train the end of a text drift, so ends
    are left to the loss of whole rows. This is soft policy iteration (Haarnoja et al., arXiv
    1801.01290): the next policy, proportional to p V, is nowhere worse than d, and q*, with V = R,
    is the only fixed point. Neither loss moves what the other one trains, except that a norm which
    reads the direction's own states trains those too. The third loss is the regression of whole
    rows of all rounds (`regression.py`), times 0.3.

    In the first round the samples are the base's. The norm then learns R from their labels, and the
    direction learns from whole rows alone: estimates of log R are mostly noise where few samples
    succeed.

    The regression of whole rows lowers all tokens of a row that is too likely; here only those
    after which V falls are lowered. V is learned as a logarithm, which tells a small R from a very
    small one; cross entropy with labels, as in `prefixes`, hardly does. It is meant for controls
    that read the state of the oracle: their texts all succeed and differ only in what that costs.
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
        whole = rollouts.log_base - rollouts.log_proposal
        log_weight = (whole[:, None] - rollouts.log_prefix).astype(np.float32)

        def at(step: int) -> PolicyIterationBatch:
            index = draws.at(step, half)
            batch = take(rollouts, index)
            newest = NewestBatch(
                **vars(batch),
                label=rollouts.label[index],
                log_label=log_label[index].astype(np.float32),
                log_weight=log_weight[index, : batch.tokens.shape[1] - 1],
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
        entropy = bernoulli.cross_entropy(values.value_logit, batch.label[:, None])
        of_label = jnp.exp(jnp.minimum(batch.log_weight, _CAP)) * entropy
        of_log = huber(values.log_value - (batch.log_label[:, None] + batch.log_weight))
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

"""Per-token consistency of direction and norm, the norm as value head. B rows of T tokens."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Array
from dinado_jax.errors import InputError
from dinado_jax.objectives.draws import bellman_at
from dinado_jax.objectives.regression import RowRegression, TargetBatch
from dinado_jax.objectives.residual import is_success, penalty
from dinado_jax.objectives.terms import BatchAt, Term
from dinado_jax.ops.masks import target_mask
from dinado_jax.rollouts.arrays import Rollouts


@struct.dataclass(kw_only=True)
class ConsistencyBatch(TargetBatch):
    """Rows of any proposal, successes and failures."""

    bellman: Array  # float32 [B], lambda of this step


@dataclasses.dataclass(frozen=True)
class Consistency:
    """`train.objective = "consistency"`: Huber loss (nats per token) of

        delta_t = log q(y_t | s_t) - log p(y_t | s_t) + log V(s_t) - log V(s_{t+1})

    times lambda (`train.bellman`), and the regression of whole rows (`regression.py`) as an anchor.
    V(s) is the sigmoid of the norm's logit at every prefix, and max(C, e^-margin) after the last
    token. At the optimum q = p V(sv) / V(s), so that every delta is 0 whatever drew the row, and
    each token has a target of its own. (Path consistency of length 1, Nachum et al., arXiv
    1702.08892, with a separate value head.)

    Gradients reach direction and norm, except that the last token of a row moves only the norm
    here: prefix terms that train the end of a text drift, so the row's term alone does. Failures
    are one-sided there: a q below the target does not raise V. Values of prefixes that q hardly
    visits are learned last, because failures there hardly pull at q.

    The forms derive V differently: V of the split form is beta e^-M, below the beta trained here,
    so its reported values are too low; q, and R of recursive forms, are not affected.
    """

    train: Train
    parts = 1
    least_samples = 1
    trains_nado = False
    trains_hard = True
    on_policy = False

    @property
    def _of_rows(self) -> RowRegression:
        return RowRegression.of(self.train)

    @property
    def draws_references(self) -> bool:
        return self.train.reference_weight > 0

    def batches(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> BatchAt:
        train = self.train
        rows = self._of_rows.rows(rollouts, weight, seed)

        def at(step: int) -> ConsistencyBatch:
            fields = vars(rows(step, train.batch))
            return ConsistencyBatch(**fields, bellman=bellman_at(train, step, train.batch))

        return at

    def terms(
        self, control: Control, params: dict, base_params: dict, batch: ConsistencyBatch
    ) -> dict[str, Term]:
        """Computes the terms of the loss, as `Objective.terms`.

        Raises:
          InputError: the direction's link is sigmoid (nado), whose level is no value of its own.
        """
        if control.direction.link == "sigmoid":
            raise InputError(
                "train.objective = consistency needs a norm beside a direction that is not nado's: "
                "choose another control or objective"
            )
        inputs = control.step_inputs(base_params, params, batch)
        mask = target_mask(batch)
        row = self._of_rows.losses(inputs, batch)
        with jax.named_scope("consistency"):
            log_value = jax.nn.log_sigmoid(inputs.beta_logit)
            log_ratio = inputs.scalars.log_policy - inputs.scalars.log_base
            token = self._token_penalties(log_ratio, log_value, batch)
        return {
            "direction": Term(row.sum(), jnp.ones_like(row).sum()),
            "consistency": Term((mask * token).sum(), mask.sum(), batch.bellman[0]),
        }

    def _token_penalties(
        self, log_ratio: jax.Array, log_value: jax.Array, batch: ConsistencyBatch
    ) -> jax.Array:
        """Computes the loss of every column, [B, T-1]; column t belongs to token t + 1:

        token       0    1    2    3    4        a row of prompt length 2 and length 5
                    p    p    y    y    eos
        column      0    1    2    3
        log_value        V_1  V_2  V_3
        log_after        V_2  V_3  log C
        last        0    0    0    1
        """
        margin = self.train.margin
        column = jax.lax.broadcasted_iota(jnp.int32, log_value.shape, 1)
        last = column == batch.length[:, None] - 2
        log_label = jnp.log(jnp.maximum(batch.label, math.exp(-margin)))[:, None]
        log_after = jnp.where(last, log_label, jnp.roll(log_value, -1, axis=1))
        log_ratio = jnp.where(last, jax.lax.stop_gradient(log_ratio), log_ratio)
        return penalty(
            log_ratio + log_value - log_after, ~last | is_success(batch.label, margin)[:, None]
        )

    def reads_states(self, control: Control) -> tuple[str, ...]:
        return ("",)

    def settings_read(self, kind: str) -> set[str]:
        read = {*self._of_rows.settings, "reference_weight", "bellman"}
        return read | {"weights", "weight_clip"} if self.train.anchor else read

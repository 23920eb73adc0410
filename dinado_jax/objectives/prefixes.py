"""Fits only the labels, after every token of every row."""

import dataclasses

import numpy as np

from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.objectives.draws import NormBatch, norm_rows
from dinado_jax.objectives.norm import bellman_term
from dinado_jax.objectives.terms import BatchAt, Term
from dinado_jax.ops import bernoulli
from dinado_jax.ops.masks import target_mask
from dinado_jax.rollouts.arrays import Rollouts


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """`train.objective = "prefixes"`: labels train direction and norm jointly, through R after
    each token.

    Converges to R*, hence to q*: p / d of what follows a prefix makes the mean label of its rows
    that of the base's continuations, whatever d is.
    """

    train: Train
    parts = 1
    least_samples = 1
    trains_nado = True
    trains_hard = True
    on_policy = False

    @property
    def draws_references(self) -> bool:
        # Most references are successes: unbalanced labels would no longer be those of the base.
        return self.train.balance and self.train.reference_weight > 0

    def batches(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> BatchAt:
        rows = norm_rows(rollouts, weight, self.train, seed)
        return lambda step: rows(step, self.train.batch)

    def terms(
        self, control: Control, params: dict, base_params: dict, batch: NormBatch
    ) -> dict[str, Term]:
        values = control.values(base_params, params, batch)
        weight = target_mask(batch) * batch.suffix
        entropy = bernoulli.cross_entropy(
            values.after_logit, batch.label[:, None], batch.shift[:, None]
        )
        value = {"value": Term((weight * entropy).sum(), weight.sum())}
        return value | bellman_term(control, values, batch)

    def reads_states(self, control: Control) -> tuple[str, ...]:
        return ("",)

    def settings_read(self, kind: str) -> set[str]:
        read = {"balance", "reference_weight", "weights"}
        return read if kind == "hard" else read | {"bellman"}

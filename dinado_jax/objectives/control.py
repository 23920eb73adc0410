"""What trains a control: the published objective, and distribution matching, the default.

Both read a control's scalars only. Batches: tokens [B, T] int32, prompt_length [B], length [B],
label [B] float32 in [0, 1].
"""

import dataclasses

import jax
import jax.numpy as jnp

from dinado_jax.controls.base import Control, Evidence
from dinado_jax.controls.recursion import unroll
from dinado_jax.objectives import bernoulli
from dinado_jax.objectives.terms import Term
from dinado_jax.ops.masks import target_mask

Batch = dict[str, jax.Array]


def direction(control: Control, base_params: dict, params: dict, batch: Batch) -> Term:
    """Negative log-likelihood (nats a row) of the composed q, each row weighted by its label.

    With rows drawn from p given C = 1 this is KL(q* || q) up to a constant (distribution matching).
    """
    log_policy = control.log_policy(base_params, params, batch["tokens"])
    log_row = (target_mask(batch) * log_policy).sum(-1)
    return Term(-(batch["label"] * log_row).sum(), batch["label"].sum())


def _values(evidence: Evidence, mask):
    scalars = evidence.scalars
    return unroll(evidence.log_beta, scalars.log_ratio, scalars.peak, mask)


def bellman(values) -> Term:
    """KL(V_{i+1} || R_i) summed over every position after the first: forward consistency."""
    residual = bernoulli.kl(values.log_value, values.log_before)
    return Term((values.linked * residual).sum(), values.linked.sum())


@dataclasses.dataclass(frozen=True)
class Published:
    """BCE(R(x), C) at the end of the sequence + lambda x Bellman at every position.

    Gradients flow through both sides and through direction and norm alike (DiNADO as released, its
    off-by-one masks mended).
    """

    control: Control
    coefficient: float = 1.0

    def terms(self, params: dict, base_params: dict, batch: Batch) -> dict[str, Term]:
        evidence = self.control.evidence(base_params, params, batch["tokens"])
        values = _values(evidence, target_mask(batch))
        entropy = bernoulli.cross_entropy(values.log_terminal, batch["label"])
        rows = jnp.ones_like(entropy).sum()
        return {
            "terminal": Term(entropy.sum(), rows),
            # Per row, not per position: the release adds the residuals of a sequence up.
            "bellman": Term(bellman(values).sum, rows, self.coefficient),
        }


@dataclasses.dataclass(frozen=True)
class Matching:
    """Likelihood on p given C = 1 for the direction; labels and consistency for the norm.

    A batch has two parts. "direction": successes, which train the direction. "norm": as many
    failures as successes, with `shift` [B], the log-odds the balancing added; there the norm learns
    the value of every prefix and of the whole row, and forward consistency. Direction and norm are
    disentangled in the gradient too: the norm's losses see A and M as constants, so its rows need
    no backward pass through the trunk.
    """

    control: Control
    coefficient: float = 1.0

    def terms(self, params: dict, base_params: dict, batch: Batch) -> dict[str, Term]:
        rows = batch["norm"]
        label, shift = rows["label"], rows["shift"]
        frozen_direction = {**params, "delta": jax.lax.stop_gradient(params["delta"])}
        evidence = self.control.evidence(base_params, frozen_direction, rows["tokens"])
        mask = target_mask(rows)
        values = _values(evidence, mask)
        value = bernoulli.cross_entropy(values.log_value, label[:, None], shift[:, None])
        terminal = bernoulli.cross_entropy(values.log_terminal, label, shift)
        return {
            "direction": direction(self.control, base_params, params, batch["direction"]),
            "value": Term((mask * value).sum(), mask.sum()),
            "terminal": Term(terminal.sum(), jnp.ones_like(terminal).sum()),
            "bellman": bellman(values)._replace(coefficient=self.coefficient),
        }


@dataclasses.dataclass(frozen=True)
class Warmup:
    """Likelihood on successes for the direction; the norm gets no gradient."""

    control: Control

    def terms(self, params: dict, base_params: dict, batch: Batch) -> dict[str, Term]:
        return {"direction": direction(self.control, base_params, params, batch)}


OBJECTIVES = {"matching": Matching, "published": Published}

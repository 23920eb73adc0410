"""What trains a control: the published objective, and distribution matching, by the likelihood of
successes (the default) or by the ratio of q to each rollout's proposal.

All read a control's scalars only. Batches: tokens [B, T] int32, prompt_length [B], length [B], and
float32 [B] as each asks for: label in [0, 1], shift, share, log_proposal.
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
_CAP = 3.0  # nats


def direction(control: Control, base_params: dict, params: dict, batch: Batch) -> Term:
    """Negative log-likelihood (nats a row) of the composed q, each row weighted by its label.

    With rows drawn from p given C = 1 this is KL(q* || q) up to a constant (distribution matching).
    """
    log_policy = control.log_policy(base_params, params, batch["tokens"])
    log_row = (target_mask(batch) * log_policy).sum(-1)
    return Term(-(batch["label"] * log_row).sum(), batch["label"].sum())


def divergence(control: Control, base_params: dict, params: dict, batch: Batch) -> Term:
    """Generalised KL (nats a row) between q* and q over rows of any proposal d, up to a constant:

        E_d[ q / d - (q* / d) log q ]      with share [B] = q* / d and log_proposal [B] = log d.

    Over all rows its expected gradient is that of the likelihood of q*, but failures teach too: a
    row is pushed by q* / d - q / d, which vanishes where q is right, and with it the noise of
    fitting single samples (the baseline of distributional policy gradients, arXiv 2206.00761,
    off-policy). Beyond e^3 the ratio q / d goes on as its tangent.
    """
    log_policy = control.log_policy(base_params, params, batch["tokens"])
    log_row = (target_mask(batch) * log_policy).sum(-1)
    log_ratio = log_row - batch["log_proposal"]
    capped = jnp.minimum(log_ratio, _CAP)
    # A reference has no proposal, log d = inf: its first summand is 0, and stays so in gradients.
    ratio = jnp.exp(capped) * (1 + jnp.where(log_ratio > _CAP, log_ratio - _CAP, 0.0))
    return Term((ratio - batch["share"] * log_row).sum(), jnp.ones_like(log_row).sum())


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


def _norm_terms(
    control: Control, base_params: dict, params: dict, rows: Batch, coefficient: float
) -> dict[str, Term]:
    """Value of every prefix and of the whole row by labels, and forward consistency.

    `rows` hold as many failures as successes, with `shift` [B], the log-odds the balancing added.
    Direction and norm are disentangled in the gradient too: these losses see A and M as constants,
    so their rows need no backward pass through the trunk.
    """
    label, shift = rows["label"], rows["shift"]
    frozen_direction = {**params, "delta": jax.lax.stop_gradient(params["delta"])}
    evidence = control.evidence(base_params, frozen_direction, rows["tokens"])
    mask = target_mask(rows)
    values = _values(evidence, mask)
    value = bernoulli.cross_entropy(values.log_value, label[:, None], shift[:, None])
    terminal = bernoulli.cross_entropy(values.log_terminal, label, shift)
    return {
        "value": Term((mask * value).sum(), mask.sum()),
        "terminal": Term(terminal.sum(), jnp.ones_like(terminal).sum()),
        "bellman": bellman(values)._replace(coefficient=coefficient),
    }


@dataclasses.dataclass(frozen=True)
class Matching:
    """Likelihood of rows that follow q* for the direction, batch["direction"]; labels and
    consistency for the norm, batch["norm"]."""

    control: Control
    coefficient: float = 1.0

    def terms(self, params: dict, base_params: dict, batch: Batch) -> dict[str, Term]:
        return {
            "direction": direction(self.control, base_params, params, batch["direction"]),
            **_norm_terms(self.control, base_params, params, batch["norm"], self.coefficient),
        }


@dataclasses.dataclass(frozen=True)
class Ratio:
    """As `Matching`, but successes and failures teach the direction: `divergence`."""

    control: Control
    coefficient: float = 1.0

    def terms(self, params: dict, base_params: dict, batch: Batch) -> dict[str, Term]:
        return {
            "direction": divergence(self.control, base_params, params, batch["direction"]),
            **_norm_terms(self.control, base_params, params, batch["norm"], self.coefficient),
        }


@dataclasses.dataclass(frozen=True)
class Warmup:
    """Likelihood on successes for the direction; the norm gets no gradient."""

    control: Control

    def terms(self, params: dict, base_params: dict, batch: Batch) -> dict[str, Term]:
        return {"direction": direction(self.control, base_params, params, batch)}


OBJECTIVES = {"matching": Matching, "ratio": Ratio, "published": Published}

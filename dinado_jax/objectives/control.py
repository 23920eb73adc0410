"""What trains a control: the published objectives, and losses of q itself beside the norm's: the
likelihood of successes, the ratio of q to a rollout's proposal, regression on a row's optimum.

All read a control's scalars only. Batches: tokens [B, T] int32, prompt_length [B], length [B], and
float32 as each asks for: label [B] in [0, 1], shift [B], suffix [B, T-1], rate [B], share [B],
log_proposal [B], target [B].
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.objectives.terms import Term
from dinado_jax.ops import bernoulli
from dinado_jax.ops.masks import target_mask

Batch = dict[str, jax.Array]
_CAP = 3.0  # nats
_HUBER = 1.5  # nats: errors beyond it pull with constant force


def direction(control: Control, base_params: dict, params: dict, batch: Batch) -> Term:
    """Negative log-likelihood (nats per row) of the composed q, each row weighted by its label.

    With rows drawn from p given C = 1 this is KL(q* || q) up to a constant (distribution matching).
    """
    return _likelihood(control.log_policy(base_params, params, batch), batch)


def _likelihood(log_probs: jax.Array, batch: Batch) -> Term:
    log_row = (target_mask(batch) * log_probs).sum(-1)
    return Term(-(batch["label"] * log_row).sum(), batch["label"].sum())


def divergence(control: Control, base_params: dict, params: dict, batch: Batch) -> Term:
    """Generalised KL (nats per row) between q* and q over rows of any proposal d, up to a constant:

        E_d[ q / d - (q* / d) log q ]      with share [B] = q* / d and log_proposal [B] = log d.

    Over all rows its expected gradient is that of the likelihood of q*, but failures teach too: a
    row is pushed by q* / d - q / d, which vanishes where q is right, and with it the noise of
    fitting single samples (the baseline of distributional policy gradients, arXiv 2206.00761,
    off-policy). Beyond e^3 the ratio q / d goes on as its tangent.
    """
    log_policy = control.log_policy(base_params, params, batch)
    log_row = (target_mask(batch) * log_policy).sum(-1)
    log_ratio = log_row - batch["log_proposal"]
    capped = jnp.minimum(log_ratio, _CAP)
    # A reference has no proposal, log d = inf: its first summand is 0, and stays so in gradients.
    ratio = jnp.exp(capped) * (1 + jnp.where(log_ratio > _CAP, log_ratio - _CAP, 0.0))
    return Term((ratio - batch["share"] * log_row).sum(), jnp.ones_like(log_row).sum())


def regression(control: Control, base_params: dict, params: dict, batch: Batch) -> Term:
    """Huber loss of a row's log-probability under q against what it is at the optimum, nats:

        log q(y) = log p(y) + log C(y) - log R0(prompt) = target [B],   C > 0

    which holds for every success, whatever drew it: once q is right no draw is noise any more, as
    it is for a likelihood. Failures are pushed down to their target, and let be below it. A
    projected R bends nothing at the optimum, so the direction is held to it unbent, where its
    gradient is that of any other form. (The recursion of R told at its end alone: the path
    consistency of Nachum et al., arXiv 1702.08892, and trajectory balance, Malkin et al., arXiv
    2201.13259.)
    """
    log_direction = control.log_direction(base_params, params, batch)
    error = (target_mask(batch) * log_direction).sum(-1) - batch["target"]
    error = jnp.where(batch["label"] > 0, error, jnp.maximum(error, 0.0))
    return Term(optax.losses.huber_loss(error, delta=_HUBER).sum(), jnp.ones_like(error).sum())


def bellman(values) -> Term:
    """KL(V_{i+1} || R_i) summed over every position after the first: forward consistency."""
    residual = bernoulli.kl(values.value_logit, values.before_logit)
    return Term((values.linked * residual).sum(), values.linked.sum())


@dataclasses.dataclass(frozen=True)
class Published:
    """The objectives as released, their off-by-one masks fixed; gradients flow everywhere.

    soft, merge: BCE(R(x), C) at the end of the sequence + lambda x Bellman at every position.
    nado: BCE(R, C) after every token + lambda x Bellman. hard: BCE after every token. Summed over a
    row, not averaged; what follows a prefix is weighed by batch["suffix"] (1 for samples of p).
    """

    control: Control
    coefficient: float = 1.0

    def terms(self, params: dict, base_params: dict, batch: Batch) -> dict[str, Term]:
        values = self.control.values(base_params, params, batch)
        label = batch["label"]
        rows = jnp.ones_like(label).sum()
        if self.control.entangled or self.control.recursive:
            entropy = bernoulli.cross_entropy(values.after_logit, label[:, None])
            weight = target_mask(batch) * batch["suffix"]
            out = {"prefixes": Term((weight * entropy).sum(), rows)}
        else:
            entropy = bernoulli.cross_entropy(values.terminal_logit, label)
            out = {"terminal": Term(entropy.sum(), rows)}
        if not self.control.recursive:
            out["bellman"] = Term(bellman(values).sum, rows, self.coefficient)
        return out


@dataclasses.dataclass(frozen=True)
class Disentangled:
    """A loss of q for the direction, on batch["direction"]; labels and consistency for the norm, on
    batch["norm"].

    The norm's rows may be drawn by label: `shift` is what that added to the log-odds; `suffix`
    weighs a position by p / proposal of what follows it. With `detach`, direction and norm are
    disentangled in the gradient too: the norm's losses see A and M as constants, and need no
    backward pass through the trunk; where R recurs from the prompt, its value is all they teach,
    from `rate`, the prompt's share of successes. Where both are one (nado), nothing is detached.
    """

    control: Control
    coefficient: float = 1.0
    direction: Callable | None = direction  # None: labels after every token teach both
    detach: bool = True

    def terms(self, params: dict, base_params: dict, batch: Batch) -> dict[str, Term]:
        control, rows, out = self.control, batch["norm"], {}
        if self.direction is not None:
            out["direction"] = self.direction(control, base_params, params, batch["direction"])
        if self.detach and not control.entangled:
            params = {**params, "direction": jax.lax.stop_gradient(params["direction"])}
        if self.detach and control.recursive:
            return {**out, "rate": self._rate(base_params, params, rows)}
        values, mask = control.values(base_params, params, rows), target_mask(rows)
        label, shift, weight = rows["label"], rows["shift"], mask * rows["suffix"]
        # The labels teach the direction through the A of every token, the norm by V before it.
        at = values.after_logit if self.direction is None else values.value_logit
        entropy = bernoulli.cross_entropy(at, label[:, None], shift[:, None])
        out["value"] = Term((weight * entropy).sum(), weight.sum())
        if self.direction is not None:
            terminal = bernoulli.cross_entropy(values.terminal_logit, label, shift)
            out["terminal"] = Term(terminal.sum(), jnp.ones_like(terminal).sum())
        if not control.recursive:
            out["bellman"] = bellman(values)._replace(coefficient=self.coefficient)
        return out

    def _rate(self, base_params, params, rows) -> Term:
        beta_logit = self.control.step_inputs(base_params, params, rows).beta_logit
        end = rows["prompt_length"][:, None] - 1
        odds = jnp.take_along_axis(beta_logit, end, axis=1, mode="clip")[:, 0]
        entropy = bernoulli.cross_entropy(odds, rows["rate"])
        # Rows drawn by label favour prompts whose rate came out high: undone here.
        weight = rows["label"] + (1 - rows["label"]) * jnp.exp(rows["shift"])
        return Term((weight * entropy).sum(), weight.sum())


@dataclasses.dataclass(frozen=True)
class Warmup:
    """Likelihood on successes for the direction, unbent; the norm gets no gradient, unless it is
    one with the direction (nado)."""

    control: Control

    def terms(self, params: dict, base_params: dict, batch: Batch) -> dict[str, Term]:
        log_direction = self.control.log_direction(base_params, params, batch)
        return {"direction": _likelihood(log_direction, batch)}


def make_objective(train: Train, control: Control, coefficient: float) -> Published | Disentangled:
    """The objective that `train.objective` names, with this lambda."""
    if train.objective == "published":
        return Published(control, coefficient)
    loss = {
        "matching": direction,
        "ratio": divergence,
        "regression": regression,
        "prefixes": None,
    }[train.objective]
    return Disentangled(control, coefficient, loss, train.detach and loss is not None)

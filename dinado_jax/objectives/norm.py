"""The losses of the norm: labels at prefixes, and forward consistency. B rows of T tokens."""

import jax
import jax.numpy as jnp

from dinado_jax.controls.control import Control
from dinado_jax.controls.recursion import Values
from dinado_jax.data.batch import Batch
from dinado_jax.objectives.draws import NormBatch
from dinado_jax.objectives.terms import Term
from dinado_jax.ops import bernoulli
from dinado_jax.ops.masks import target_mask


def bellman(values: Values) -> Term:
    """Computes KL(V_{i+1} || R_i) (nats) summed over all target positions after the first: forward
    consistency, DiNADO eq. 7 (arXiv 2306.11825).
    """
    residual = bernoulli.kl(values.value_logit, values.before_logit)
    return Term((values.linked * residual).sum(), values.linked.sum())


def prompt_rate(control: Control, params: dict, base_params: dict, batch: NormBatch) -> Term:
    """Computes `rate_term` of beta, the only value that recursive forms have to learn."""
    return rate_term(control.step_inputs(base_params, params, batch).beta_logit, batch)


def rate_term(value_logit: jax.Array, batch: NormBatch) -> Term:
    """Computes cross entropy between V of the prompt and its estimated success rate.

    Args:
      value_logit: float32 [B, T-1], log-odds of V before each token.
      batch: B rows.
    """
    last = batch.prompt_length[:, None] - 1
    logit = jnp.take_along_axis(value_logit, last, axis=1, mode="clip")[:, 0]
    entropy = bernoulli.cross_entropy(logit, batch.rate)
    weight = _row_weight(batch)
    return Term((weight * entropy).sum(), weight.sum())


def value_terms(
    control: Control, params: dict, base_params: dict, batch: NormBatch
) -> dict[str, Term]:
    """Computes cross entropy between V and its estimates, and between R at the end and the label;
    for the split form the Bellman residual.

    Of the prompt the estimate is its rate, of a later prefix (p / d) C of what follows, d the
    proposal: its mean over d is V(s) whatever d is, and under q* every success has the value V(s).
    (Labels weighted by p / d would need failures, which q hardly draws.) An estimate above 1 counts
    as that many successes, so that the loss is bounded below; V is then E[e] / E[max(e, 1)] of the
    estimates e, a little low where they exceed 1.
    """
    values = control.values(base_params, params, batch)
    estimate = batch.label[:, None] * batch.suffix
    weight = values.linked * _row_weight(batch)[:, None] * jnp.maximum(estimate, 1.0)
    entropy = bernoulli.cross_entropy(values.value_logit, jnp.minimum(estimate, 1.0))
    terminal = bernoulli.cross_entropy(values.terminal_logit, batch.label, batch.shift)
    terms = {
        "rate": rate_term(values.value_logit, batch),
        "value": Term((weight * entropy).sum(), weight.sum()),
        "terminal": Term(terminal.sum(), jnp.ones_like(terminal).sum()),
    }
    return terms | bellman_term(control, values, batch)


def _row_weight(batch: NormBatch) -> jax.Array:
    """Returns [B] weights that undo drawing by label, which favours prompts and prefixes that
    succeeded by chance.
    """
    return batch.label + (1 - batch.label) * jnp.exp(batch.shift)


def bellman_term(control: Control, values: Values, batch: NormBatch) -> dict[str, Term]:
    """Returns the Bellman residual with its coefficient lambda; {} for the recursive forms."""
    if control.recursive:
        return {}
    return {"bellman": bellman(values)._replace(coefficient=batch.bellman[0])}


def log_row(log_probs: jax.Array, batch: Batch) -> jax.Array:
    """Log-probability of each row's target: [B, T-1] -> [B] nats."""
    return (target_mask(batch) * log_probs).sum(-1)

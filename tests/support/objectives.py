"""Batches of the objectives, their terms and gradients, and the same terms in float64.

B rows of one target token and of many, labels hard and soft, under a merge control.
"""

import functools

import chex
import jax
import numpy as np
import pytest

from dinado_jax.config.schema import Train
from dinado_jax.data.batch import Batch
from dinado_jax.objectives.consistency import ConsistencyBatch
from dinado_jax.objectives.direction_and_norm import TwoPartBatch
from dinado_jax.objectives.draws import LabeledBatch, NormBatch
from dinado_jax.objectives.published import PublishedBatch
from dinado_jax.objectives.ratio import RatioBatch
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.objectives.terms import Term
from dinado_jax.objectives.warmup import Warmup
from support import float64, tiny

B, WIDTH = 6, 10
CONTROL = tiny.control()
LAMBDA, SHIFT = 0.7, 2.2
MIXED = [1, 0, 0.5, 0, 1, 1]
_LENGTHS = {"prompt_length": [1, 3, 2, 6, 9, 4], "length": [10, 7, 3, 10, 10, 5]}
# Of each row; the third is far likelier under q than under its proposal, the fourth has none.
_OPTIMAL_RATIO = np.float32([0.5, 0, 2, 1, 0, 1.5])
_ABOVE_UNIFORM = np.float32([1, 0.5, -6, np.inf, 0, -1])


def objective(name: str, **train):
    return (OBJECTIVES | {"warmup": Warmup})[name](Train(**train))


def rows(label, seed: int = 3, **lengths) -> LabeledBatch:
    return tiny.batch(**_LENGTHS | lengths, seed=seed, label=label, width=WIDTH)


def norm_rows(part: LabeledBatch) -> NormBatch:
    """Rows of random suffix weights."""
    shape = part.tokens.shape[0], part.tokens.shape[1] - 1
    return NormBatch(
        **vars(part),
        shift=np.full(B, SHIFT, np.float32),
        suffix=np.random.default_rng(5).gamma(2, 1, shape).astype(np.float32),
        rate=np.linspace(0.1, 0.9, B, dtype=np.float32),
        bellman=np.full(B, LAMBDA, np.float32),
    )


def ratio_rows(part: LabeledBatch) -> RatioBatch:
    targets = np.float32(part.length - part.prompt_length)
    uniform = -targets * np.log(CONTROL.model.config.vocab_size)
    fields = {name: value for name, value in vars(part).items() if name != "label"}
    log_proposal = np.float32(uniform + _ABOVE_UNIFORM)
    return RatioBatch(**fields, optimal_ratio=_OPTIMAL_RATIO, log_proposal=log_proposal)


def batch(
    name: str, part: LabeledBatch, direction: LabeledBatch | None = None
) -> Batch | TwoPartBatch:
    """What the objective `name` takes; other rows for the direction unless they are given."""
    if name == "warmup":
        return part
    if name == "published":
        fields = vars(norm_rows(part))
        return PublishedBatch(**{k: v for k, v in fields.items() if k not in ("shift", "rate")})
    if name == "prefixes":
        return norm_rows(part)
    if name == "consistency":
        target, bellman = np.linspace(-20, -4, B, dtype=np.float32), np.full(B, LAMBDA, np.float32)
        ratio = np.linspace(0, 2, B, dtype=np.float32)
        proposal = np.linspace(-18, -6, B, dtype=np.float32)
        return ConsistencyBatch(
            **vars(part),
            target=target,
            log_rate=np.linspace(-4, -0.1, B, dtype=np.float32),
            optimal_ratio=ratio,
            log_proposal=proposal,
            bellman=bellman,
        )
    direction = rows([1, 1, 1, 0.25, 1, 1], seed=4) if direction is None else direction
    direction = ratio_rows(direction) if name == "ratio" else direction
    return TwoPartBatch(direction=direction, norm=norm_rows(part))


@functools.partial(jax.jit, static_argnums=0)
def terms(objective, params, batch) -> dict[str, Term]:
    return objective.terms(CONTROL, params, tiny.base_params(), batch)


@functools.partial(jax.jit, static_argnums=0)
def gradients(objective, params, batch) -> dict:
    """{term: the gradient of its sum}."""

    def sums(params):
        found = objective.terms(CONTROL, params, tiny.base_params(), batch)
        return {name: term.sum for name, term in found.items()}

    return jax.jacrev(sums)(params)


@jax.jit
def whole(params, tokens):
    """The logits of p and q [B, T-1, V], and log beta."""
    base = CONTROL.model.apply({"params": tiny.base_params()}, tokens)
    policy = CONTROL.model.apply(CONTROL.policy_variables(tiny.base_params(), params), tokens)
    log_beta = jax.nn.log_sigmoid(CONTROL.norm.logit(params["norm"], base.hidden[:, :-1]))
    return base.logits[:, :-1], policy.logits[:, :-1], log_beta


def reference(params, batch) -> list[list[tuple]]:
    """Row by row, position by position, in float64: for every target (log q, log V, log R)."""
    out = []
    *logits, log_beta = (np.float64(x) for x in whole(params, batch.tokens))
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits)
    for b, row in enumerate(batch.tokens):
        steps = []
        for t in range(batch.prompt_length[b] - 1, batch.length[b] - 1):
            r = log_q[b, t] - log_p[b, t]
            log_r = log_beta[b, t] + r - r.max()
            log_v = np.log(np.sum(np.exp(log_p[b, t] + log_r)))
            token = row[t + 1]
            steps.append((log_q[b, t, token], log_v, log_r[token]))
        out.append(steps)
    return out


# (sum, weight) of terms, from the reference.


def expected_likelihood(params, batch):
    pairs = list(zip(reference(params, batch), batch.label))
    return (
        sum(-label * log_q for steps, label in pairs for log_q, _, _ in steps),
        sum(label for _, label in pairs),
    )


def expected_bellman(steps_of_rows):
    residuals = [
        float64.kl(float64.logit(steps[t + 1][1]), float64.logit(steps[t][2]))
        for steps in steps_of_rows
        for t in range(len(steps) - 1)
    ]
    return sum(residuals), len(residuals)


def expected_terminal(steps_of_rows, label, shift=0.0):
    entropies = [
        float64.cross_entropy(float64.logit(steps[-1][2]), c, shift)
        for steps, c in zip(steps_of_rows, label)
    ]
    return sum(entropies), len(entropies)


def expected_after_tokens(steps_of_rows, batch):
    """Cross entropies of R at every position, weighted by the suffixes."""
    weighted = [
        (float(suffix[t]), float64.cross_entropy(float64.logit(step[2]), label, SHIFT))
        for steps, label, suffix, start in zip(
            steps_of_rows, MIXED, batch.suffix, batch.prompt_length
        )
        for t, step in enumerate(steps, start=start - 1)
    ]
    return sum(w * entropy for w, entropy in weighted), sum(w for w, _ in weighted)


def expected_values(steps_of_rows, batch):
    """Sums and weights of rate and value: those of V of prompts, and of later prefixes."""
    rate, value, rate_weight, value_weight = 0.0, 0.0, 0.0, 0.0
    for steps, label, suffix, start, own in zip(
        steps_of_rows, MIXED, batch.suffix, batch.prompt_length, batch.rate
    ):
        of_row = label + (1 - label) * np.exp(SHIFT)
        rate += of_row * float64.cross_entropy(float64.logit(steps[0][1]), float(own))
        rate_weight += of_row
        for t, step in enumerate(steps[1:], start=start):
            estimate = label * float(suffix[t])
            weight = of_row * max(1, estimate)
            value += weight * float64.cross_entropy(float64.logit(step[1]), min(1, estimate))
            value_weight += weight
    return {"rate": (rate, rate_weight), "value": (value, value_weight)}


def expected_norm(params, batch) -> dict[str, tuple]:
    """What `value_terms` has to give."""
    steps = reference(params, batch)
    return {
        **expected_values(steps, batch),
        "terminal": expected_terminal(steps, MIXED, SHIFT),
        "bellman": expected_bellman(steps),
    }


def assert_terms(found: dict[str, Term], expected: dict[str, tuple]) -> None:
    assert set(found) == set(expected)
    for name, (total, weight) in expected.items():
        assert float(found[name].sum) == pytest.approx(total, rel=2e-5), name
        assert float(found[name].weight) == pytest.approx(weight, rel=1e-6), name
        coefficient = LAMBDA if name == "bellman" else 1.0
        assert float(found[name].coefficient) == np.float32(coefficient)


def assert_finite(name: str, params, batch) -> None:
    chex.assert_tree_all_finite(terms(objective(name), params, batch))
    chex.assert_tree_all_finite(gradients(objective(name), params, batch))

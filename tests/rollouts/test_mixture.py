"""Rollouts of the base and of q as draws of their mixture: weights by hand, and what they give."""

import jax
import numpy as np
import pytest
from support import tiny_run, world
from support.world import EOS, MODEL, PROMPTS, N

from dinado_jax import language_model as base
from dinado_jax.data.prompts import Prompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.decoding.score import score
from dinado_jax.rollouts.arrays import Rollouts, concatenate
from dinado_jax.rollouts.mixture import as_mixture
from dinado_jax.rollouts.weighting import (
    align_to_targets,
    exclusive_cumsum,
    importance_weights,
    success_rate,
    suffix_importance_weights,
)

ALPHA, DRAWS = 0.25, 4000
PROMPT = PROMPTS[0]
COLUMNS = slice(len(PROMPT) - 1, len(PROMPT) + N - 1)


def fulfilled(tokens):
    """The oracle: something likelier under q than under p."""
    return (tokens == 2).any(-1)


@pytest.fixture(scope="module")
def model():
    params = world.params("merge", 0.15)
    return base.Controlled(
        base.Base(MODEL, world.base_params(), None), world.control("merge"), params
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


def sampled(of, under_p, count):
    """As the rollout stage has them, for one prompt."""
    sampler = Sampler(of.policy, Method(), (EOS,), N, count)
    prompt, length = np.int32([PROMPT]), np.int32([len(PROMPT)])
    key, ids = jax.random.key(count), np.zeros(1, np.int32)
    drawn = jax.device_get(sampler(of.variables, Prompts(prompt, length), ids, key))
    new = [row[:n] for row, n in zip(drawn.tokens, drawn.length)]
    rows = sequences([PROMPT] * count, new, EOS, MODEL.context_length)
    log_base = score(under_p.policy, under_p.variables, rows, count)
    log_proposal = align_to_targets(rows, drawn.log_probs)
    return Rollouts(
        rows.tokens,
        rows.prompt_length,
        rows.length,
        label=np.float32([fulfilled(row) for row in new]),
        log_base=log_base.sum(1),
        log_proposal=log_proposal.sum(1),
        log_prefix=exclusive_cumsum(log_base - log_proposal),
        prompt_id=np.zeros(count, np.int32),
        finished=drawn.finished,
        round=np.zeros(count, np.int32),
    )


@pytest.fixture(scope="module")
def of_q(compiled, model):
    return sampled(model, model.base, DRAWS - int(ALPHA * DRAWS))


@pytest.fixture(scope="module")
def mixed(compiled, model, of_q):
    plain = sampled(model.base, model.base, int(ALPHA * DRAWS))
    return as_mixture(concatenate([of_q, plain], EOS), model, ALPHA, 1000)


@pytest.fixture(scope="module")
def truth(compiled, model):
    log_p, *_ = world.exact(model.control, model.base.params, model.params, PROMPT)
    return sum(prob for row, prob in world.sequence_probs(log_p).items() if 2 in row)


def token_ratios(model, rows):
    """log q - log p of every column."""
    q, p = (score(m.policy, m.variables, rows, 1000) for m in (model, model.base))
    return q - p


def test_plain_samples_of_q_weigh_their_remaining_tokens(model, of_q):
    ratio = token_ratios(model, of_q)
    weight = suffix_importance_weights(of_q, "importance")
    for column in range(COLUMNS.start, COLUMNS.stop):
        inside = column < of_q.length - 1
        rest = np.exp(-ratio[:, column:].sum(1))
        np.testing.assert_allclose(weight[inside, column], rest[inside], rtol=1e-3)
    np.testing.assert_allclose(
        weight[:, COLUMNS.start], importance_weights(of_q, "importance", 1.0, 0.0), rtol=1e-4
    )


def test_a_mixture_is_the_sum_of_its_parts(model, mixed):
    ratio = token_ratios(model, mixed)
    log_q = mixed.log_base + ratio.sum(1)
    by_hand = np.logaddexp(np.log(ALPHA) + mixed.log_base, np.log(1 - ALPHA) + log_q)
    np.testing.assert_allclose(mixed.log_proposal, by_hand, rtol=0, atol=1e-4)
    weight = importance_weights(mixed, "importance", 1.0, 0.0)
    assert weight.max() <= 1 / ALPHA + 1e-4 and weight.max() > 1.2
    for column in range(COLUMNS.start, COLUMNS.stop):
        upto = ratio[:, :column].sum(1)
        expected = -np.log(ALPHA + (1 - ALPHA) * np.exp(upto))
        np.testing.assert_allclose(mixed.log_prefix[:, column], expected, rtol=0, atol=1e-4)
    first = suffix_importance_weights(mixed, "importance")[:, COLUMNS.start]
    np.testing.assert_allclose(first, weight, rtol=1e-4)


def test_weights_estimate_what_the_base_does(of_q, mixed, truth):
    """Within four standard errors of the enumeration, from q and from the mixture."""
    for rows in (of_q, mixed):
        weight = importance_weights(rows, "importance", 1.0, 0.0)
        plain = weight * rows.label
        assert plain.mean() == pytest.approx(truth, abs=4 * plain.std() / np.sqrt(len(rows)))
        error = (weight * (rows.label - truth)).std() / weight.mean() / np.sqrt(len(rows))
        assert error < 0.05 and success_rate(rows) == pytest.approx(truth, abs=4 * error)
        assert abs(rows.label.mean() - truth) > 4 * error, "weights matter"

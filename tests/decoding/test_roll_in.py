"""Samples that the policy begins and the base continues, in a world small enough to enumerate."""

import jax
import numpy as np
import pytest
from support import tiny_run, world
from support.world import EOS, MODEL, PROMPTS, N

from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.refill import iter_refilled
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.language_model import Base, Composed, Controlled
from dinado_jax.rollouts.weighting import align_to_targets

ROLL_IN, DRAWS, KEY = 2, 4000, jax.random.key(5)


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


@pytest.fixture(scope="module", params=["merge", "soft-small", "nado"])
def q(request):
    base = Base(MODEL, world.base_params(), None)
    return Controlled(base, world.control(request.param), world.params(request.param))


def sampler(q, samples, **changes):
    policy = Composed((q,), beside_base=True).policy
    return Sampler(policy, Method(), (EOS,), N, samples, roll_in=ROLL_IN, **changes)


def variables(q):
    return Composed((q,), beside_base=True).variables


@pytest.fixture(scope="module")
def drawn(q):
    """Samples of the first prompt."""
    prompts = TokenizedPrompts([PROMPTS[0]])
    return sample_prompts(sampler(q, DRAWS), variables(q), prompts, KEY, DRAWS)


def test_each_token_has_the_log_probability_of_what_drew_it(q, drawn):
    """That of q before some token, which is the first or the second, and of p from it on."""
    targets = [row[:n] for row, n in zip(drawn.tokens, drawn.length)]
    rows = sequences([PROMPTS[0]] * DRAWS, targets, EOS, MODEL.context_length)
    under_q, under_p = (score(m.policy, m.variables, rows, 1000) for m in (q, q.base))
    found, column = align_to_targets(rows, drawn.log_probs), np.arange(under_p.shape[1])
    first = len(PROMPTS[0]) - 1
    off = [
        np.abs(np.where(column < first + switch, under_q, under_p) - found).max(1)
        for switch in range(ROLL_IN)
    ]
    np.testing.assert_allclose(np.minimum(*off), 0, atol=1e-4)
    assert 0.45 < np.mean(off[0] < off[1]) < 0.55


def test_samples_have_the_distribution_of_a_random_switch(q, drawn):
    log_p, _, log_r = world.exact(q.control, q.base.params, q.params, PROMPTS[0])
    log_q = world.log_softmax(log_p + log_r)
    probs = dict.fromkeys(world.sequence_probs(log_p), 0.0)
    for switch in range(ROLL_IN):
        table = np.where(np.arange(N)[:, None] < switch, log_q, log_p)
        for outcome, prob in world.sequence_probs(table).items():
            probs[outcome] += prob / ROLL_IN
    numbers = world.outcome_numbers(drawn.tokens, probs)
    assert world.p_value_of_numbers(numbers, list(probs.values())) > 1e-3
    for other in (log_p, log_q):
        other = list(world.sequence_probs(other).values())
        assert world.p_value_of_numbers(numbers, other) < 1e-6


def test_refilled_rows_are_the_same(q):
    """Rows that begin at any step switch at their own token."""
    prompts = TokenizedPrompts(list(PROMPTS))
    together = sample_prompts(sampler(q, 8), variables(q), prompts, KEY, 24)
    for numbers, samples, _ in iter_refilled(sampler(q, 8), variables(q), prompts, KEY, 8):
        np.testing.assert_array_equal(samples.tokens, together.tokens[numbers])
        np.testing.assert_allclose(samples.log_probs, together.log_probs[numbers], atol=1e-5)

"""Bounds of the base's success rate against enumeration."""

import numpy as np
import pytest
from guides.test_seam import ASKED, BASE, GUIDED, TEXTS, WANTED, has_its_token, log_p
from support import world
from support.refusal import error_of
from support.world import N

from dinado_jax.evaluation.rate_bounds import rate_bounds

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def truth(least=0.0):
    """log R0 of each prompt; C is `least` without its token."""
    probs = [world.sequence_probs(log_p(number)) for number in range(3)]
    rates = [sum(p for row, p in own.items() if w in row) for own, w in zip(probs, WANTED)]
    return np.log(np.array(rates) + least * (1 - np.array(rates)))


def mostly(prompts, texts):
    return [1.0 if label else 0.1 for label in has_its_token(prompts, texts)]


def test_they_are_on_both_sides_and_closer_with_more_particles():
    log_rate, succeeding = truth(0.1), np.exp(truth())
    how = {"samples": 60, "tries": 400, "max_new_tokens": N, "seed": 1}
    distances = []
    for particles in (2, 8):
        found = rate_bounds(GUIDED, ASKED, mostly, particles=particles, **how)
        assert found.prompts == TEXTS
        np.testing.assert_allclose(found.acceptance, np.exp(log_rate), atol=0.08)
        assert (found.lower < log_rate + 3 * found.lower_error).all()
        assert (found.upper > log_rate - 3 * found.upper_error).all()
        assert found.lower.mean() < log_rate.mean() < found.upper.mean()
        log_label = np.log(0.1) * (1 - succeeding / np.exp(log_rate))
        np.testing.assert_allclose(found.log_label, log_label, atol=0.5)
        least, most = found.kl_of_target
        assert least.mean() < (log_label - log_rate).mean() + 0.2
        assert most.mean() > (log_label - log_rate).mean() - 0.2
        distances.append(found.distance.mean())
    assert distances[1] < 0.6 * distances[0]
    assert repr(found).startswith("RateBounds(3 prompts; log R0 at least -")


def test_graded_labels_and_prompts_without_success():
    def half(prompts, texts):
        has = has_its_token(prompts, texts)
        return [0.5 * (label and prompt != TEXTS[1]) for prompt, label in zip(prompts, has)]

    found = rate_bounds(GUIDED, ASKED, half, samples=4, tries=64, max_new_tokens=N)
    assert np.isnan(found.upper).tolist() == [False, True, False]
    assert np.isneginf(found.lower).tolist() == [False, True, False]
    np.testing.assert_allclose(found.log_label[[0, 2]], np.log(0.5))
    assert found.acceptance[1] == 0
    wanted = truth() + np.log(0.5)
    assert np.abs(found.lower - wanted)[[0, 2]].max() < 0.7
    assert np.abs(found.upper - wanted)[[0, 2]].max() < 0.7


def test_faults():
    assert "particles = 1" in error_of(
        lambda: rate_bounds(GUIDED, ASKED, has_its_token, particles=1)
    )
    assert "tries = 0" in error_of(lambda: rate_bounds(GUIDED, ASKED, has_its_token, tries=0))
    assert "give a base under a control" in error_of(rate_bounds, BASE, ASKED, has_its_token)

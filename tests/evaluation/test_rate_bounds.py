"""Bounds of the base's success rate against enumeration."""

import numpy as np
import pytest
from guides.test_seam import ASKED, BASE, GUIDED, TEXTS, WANTED, has_its_token, log_p
from support import world
from support.refusal import error_of
from support.world import N

from dinado_jax.evaluation.rate_bounds import rate_bounds

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def truth():
    """log R0 of each prompt."""
    probs = [world.sequence_probs(log_p(number)) for number in range(3)]
    rates = [sum(p for row, p in own.items() if w in row) for own, w in zip(probs, WANTED)]
    return np.log(rates)


def test_they_are_on_both_sides_and_closer_with_more_particles():
    how = {"samples": 60, "tries": 400, "max_new_tokens": N, "seed": 1}
    distances = []
    for particles in (2, 8):
        found = rate_bounds(GUIDED, ASKED, has_its_token, particles=particles, **how)
        assert found.prompts == TEXTS and (found.log_label == 0).all()
        np.testing.assert_allclose(found.acceptance, np.exp(truth()), atol=0.08)
        assert (found.lower < truth() + 3 * found.lower_error).all()
        assert (found.upper > truth() - 3 * found.upper_error).all()
        least, most = found.kl_of_target
        assert (least == -found.upper).all() and (most == -found.lower).all()
        assert found.lower.mean() < truth().mean() < found.upper.mean()
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

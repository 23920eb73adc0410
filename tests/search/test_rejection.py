"""Quasi-rejection against enumeration."""

import numpy as np
import pytest
from guides.test_seam import ASKED, GUIDED, TEXTS, WANTED, has_its_token, log_p
from support import world
from support.refusal import error_of
from support.world import N

from dinado_jax.search.rejection import sample_by_rejection

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TRIES, ENOUGH = 4096, 24.0  # no weight is above 24 times the mean


def accepted(excess, oracle=has_its_token, model=GUIDED):
    how = {"samples": TRIES, "tries": TRIES, "max_new_tokens": N, "seed": 2}
    return sample_by_rejection(model, ASKED, oracle, excess=excess, **how)


def graded(prompts, texts):
    """C, more for longer texts, where there is the token."""
    has = has_its_token(prompts, texts)
    return [label * (0.3 + 0.2 * len(text.split())) for label, text in zip(has, texts)]


def test_with_a_bound_above_every_weight_it_samples_the_target():
    found = accepted(ENOUGH, graded)
    np.testing.assert_allclose(found.kept, 1, atol=1e-6)
    np.testing.assert_allclose(found.acceptance, 1 / ENOUGH, rtol=1e-5)
    for number, prompt in enumerate(TEXTS):
        probs = world.sequence_probs(log_p(number))
        label = {row: 0.3 + 0.2 * len([t for t in row if t]) for row in probs}
        joint = {row: p * label[row] * (WANTED[number] in row) for row, p in probs.items()}
        rate = sum(joint.values())
        target = {row: p / rate for row, p in joint.items() if p}
        rows = [tuple(one.tokens.tolist()) for one in found.texts if one.prompt == prompt]
        assert world.p_value(rows, target) > 1e-3 and len(rows) > 100
        truth = sum(p * np.log(p / probs[row]) for row, p in target.items())
        assert found.kl_to_base[number] == pytest.approx(truth, abs=0.15)


def test_a_lower_bound_accepts_more_and_keeps_less():
    low, high = accepted(1.0, graded), accepted(1.5, graded)
    assert (low.acceptance > high.acceptance).all() and (low.kept < high.kept).all()
    assert (high.kept < 1).all() and len(low.texts) > len(high.texts)
    assert all(one.label == pytest.approx(graded([one.prompt], [one.text])[0]) for one in low.texts)
    assert repr(low).startswith("Accepted(")


def test_prompts_without_success_and_faults():
    found = sample_by_rejection(GUIDED, ASKED, lambda prompt, text: prompt == TEXTS[0], tries=8)
    assert [one.prompt for one in found.texts] in ([], [TEXTS[0]])
    assert found.acceptance[1] == 0 and np.isnan(found.kl_to_base).tolist() == [False, True, True]
    told = error_of(lambda: sample_by_rejection(GUIDED, ASKED, has_its_token, excess=0.5))
    assert "excess = 0.5: it must be 1 or more" in told

"""Texts chosen among particles, from Python."""

import dataclasses

import jax
import numpy as np
import pytest
from support import word_base
from support.refusal import error_of

import dinado_jax
from dinado_jax.constraints import pattern
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.score import score
from dinado_jax.guarantee import guarantee
from dinado_jax.guides.complete import complete_guide
from dinado_jax.language_model import Controlled

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = ["dog =", "cat fox =", "fox ="]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = dinado_jax.load(word_base.write(tmp_path_factory.mktemp("base") / "base"))
    return word_base.controlled(base, "merge").tilted(strength=0.2)


def even(text):
    return len(text) % 2 == 0


def test_a_text_is_scored_under_the_base_and_judged(model):
    chosen = model.sample_by_particles(PROMPTS, even, particles=4, samples=3, max_new_tokens=6)
    assert [one.prompt for one in chosen] == [prompt for prompt in PROMPTS for _ in range(3)]
    codec, base = model.base.codec, model.base
    asked = codec.prompts([one.prompt for one in chosen])
    rows = sequences(asked, [one.tokens.tolist() for one in chosen], codec.eos_id, 24)
    scores = score(base.policy, base.variables, rows, 8)
    for one, prompt, of_row in zip(chosen, asked, scores, strict=True):
        own = of_row[len(prompt) - 1 :][: len(one.tokens)]
        np.testing.assert_allclose(one.log_probs_base, own, atol=1e-4)
        assert one.text == codec.decode([one.tokens.tolist()])[0]
        assert one.label == even(one.text) and len(one.tokens) == len(one.log_probs_base) <= 6
        assert one.log_prob == pytest.approx(one.log_probs_base.sum() + one.excess)
    assert repr(chosen[0]).startswith("Particle('dog =' -> ")


def test_a_text_depends_on_its_prompt_number_and_seed_alone(model):
    given = {"particles": 4, "samples": 2, "max_new_tokens": 6}
    whole = model.sample_by_particles(PROMPTS, even, **given)
    first = model.sample_by_particles(PROMPTS[:1], even, **given, batch=4)
    assert [one.text for one in first] == [one.text for one in whole[:2]]
    other = model.sample_by_particles(PROMPTS, even, **given, seed=1)
    assert [one.text for one in other] != [one.text for one in whole]
    assert len({one.text for one in whole}) > 2


def test_a_composition_and_a_tilt_are_guides_too(model):
    both = dinado_jax.compose(model, model.tilted(strength=0.1))
    for guided in (both, model.tilted(strength=0.3)):
        chosen = guided.sample_by_particles(PROMPTS, even, particles=8, samples=8)
        assert np.mean([one.label for one in chosen]) > 0.9


def test_particles_on_which_the_oracle_fails_are_not_chosen(model):
    def picky(text):
        if len(text) % 3 == 0:
            raise ValueError("three")
        return True

    chosen = model.sample_by_particles(PROMPTS, picky, particles=4, samples=8)
    assert all(len(one.text) % 3 for one in chosen if one.label)
    assert np.mean([one.label for one in chosen]) > 0.9


def test_faults(model):
    sample = model.sample_by_particles
    assert "particles = 1: it must be at least 2" in error_of(
        lambda: sample(PROMPTS, even, particles=1)
    )
    assert "samples = 0" in error_of(lambda: sample(PROMPTS, even, samples=0))
    assert "prompts is 'dog =': give a list" in error_of(sample, "dog =", even)
    assert "oracle 'nothing', no such oracle" in error_of(sample, PROMPTS, "nothing")
    assert "prompt 1 ('x" in error_of(sample, ["dog =", "x" * 500], even)
    told = error_of(model.tilted(reject=0.1).sample_by_particles, PROMPTS, even)
    assert "reject = 0.1 rules out texts" in told
    told = error_of(dinado_jax.sample_by_particles, model.base, PROMPTS, even)
    assert "give a base under a control" in told


def test_a_prompt_without_a_way_on_is_refused(model):
    guide = complete_guide(model.base.codec, most=30, least=20)
    dead = Controlled(model.base, *guide)
    said = error_of(lambda: dead.sample_by_particles(PROMPTS, even, particles=4, max_new_tokens=8))
    assert "prompt 'dog =', all 4 particles come to a dead end" in said


def test_weights_of_improbable_constraints_are_not_cut(model):
    """Texts that the base hardly ever writes are as far from it as they are."""
    sharp = jax.tree.map(lambda x: x, model.base.params)
    sharp["ln_f"] = jax.tree.map(lambda x: 12 * x, sharp["ln_f"])
    base = dataclasses.replace(model.base, params=sharp)
    rare, asked = guarantee(base, ["dog ="], 12, pattern("zqxjzqxjzq"))
    found = rare.sample_by_particles(
        asked, lambda text: True, particles=4, samples=4, max_new_tokens=12
    )
    for one in found:
        assert one.excess == pytest.approx(-one.log_probs_base.sum(), rel=0.3) and one.excess > 110

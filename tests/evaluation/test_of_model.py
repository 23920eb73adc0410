"""The figures of a model in one call are those of a run."""

import json
import math

import numpy as np
import pytest
from support import word_base
from support.refusal import error_of

import dinado_jax
from dinado_jax.constraints import without
from dinado_jax.evaluation.metrics import kl_floor, mean_and_error

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = ["dog =", "cat fox =", "fox ="]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = dinado_jax.load(word_base.write(tmp_path_factory.mktemp("base") / "base"))
    return word_base.controlled(base, "merge")


def even(text):
    return len(text) % 2 == 0


def test_figures_are_those_of_the_samples(model):
    found = model.evaluate(PROMPTS, even, samples=8, seed=3)
    made, of_base = (m.generate(PROMPTS, samples=8, seed=3) for m in (model, model.base))
    rates, base_rates = (
        np.array([even(one.text) for one in each], float).reshape(3, 8).mean(1)
        for each in (made, of_base)
    )
    kl = np.array([one.log_probs.sum() - one.log_probs_base.sum() for one in made])
    assert found.samples == 24
    assert (found.success_rate, found.success_rate_error) == pytest.approx(mean_and_error(rates))
    assert 0 < found.success_rate < 1 and found.success_rate != found.base_success_rate
    assert (found.base_success_rate, found.base_success_rate_error) == pytest.approx(
        mean_and_error(base_rates)
    )
    assert (found.kl_to_base, found.kl_to_base_error) == pytest.approx(
        mean_and_error(kl.astype(np.float64).reshape(3, 8).mean(1)), rel=1e-5
    )
    assert found.kl_floor == pytest.approx(kl_floor(rates.mean(), base_rates.mean()))
    assert found.efficiency == pytest.approx(found.kl_floor / found.kl_to_base)
    assert repr(found).startswith(f"Evaluation(success {found.success_rate:.1%} +- ")


def test_every_form_of_oracle(model):
    word = without("dog")
    forms = (
        even,
        lambda prompt, text: even(text),
        lambda prompts, texts: [even(text) for text in texts],
    )
    found = [model.evaluate(PROMPTS, form, samples=8) for form in forms]
    assert found[0] == found[1] == found[2] and 0 < found[0].success_rate < 1
    labels = word(*zip(*((one.prompt, one.text) for one in model.generate(PROMPTS, samples=8))))
    assert model.evaluate(PROMPTS, word, samples=8).success_rate == np.mean(labels)
    assert model.evaluate(PROMPTS, "ends_with_question", samples=2).success_rate == 0


def test_particles_raise_success_at_a_bounded_kl(model):
    model = model.tilted(strength=0.2)
    plain = model.evaluate(PROMPTS, even, samples=16, seed=3)
    found = model.evaluate(PROMPTS, even, samples=16, particles=4, seed=3)
    chosen = model.sample_by_particles(PROMPTS, even, samples=16, particles=4, seed=3)
    assert found.samples == 48 and found.success_rate > 0.8 > plain.success_rate
    excess = np.array([one.excess for one in chosen]).reshape(3, 16).mean(1)
    assert (found.kl_to_base, found.kl_to_base_error) == pytest.approx(mean_and_error(excess))
    assert found.kl_to_base > found.kl_floor - 3 * found.kl_to_base_error


def test_faults(model):
    said = error_of(model.evaluate, ["a house"], "lexical")
    assert said.startswith("prompt 0, prompt 'a house'")
    assert "oracle 'nothing', no such oracle" in error_of(model.evaluate, PROMPTS, "nothing")
    assert "prompts is 'dog =': give a list" in error_of(model.evaluate, "dog =", even)
    assert "samples = 0" in error_of(lambda: model.evaluate(PROMPTS, even, samples=0))


def test_samples_on_which_the_oracle_fails_are_left_out(model):
    def picky(text):
        if len(text) % 3 == 0:
            raise ValueError("three")
        return even(text)

    found, whole = (model.evaluate(PROMPTS, o, samples=8, seed=3) for o in (picky, even))
    assert 0 < found.samples < whole.samples == 24
    kept = [one for one in model.generate(PROMPTS, samples=8, seed=3) if len(one.text) % 3]
    assert found.samples == len(kept)
    assert found.success_rate == pytest.approx(np.mean([even(one.text) for one in kept]))


def test_a_base_is_at_no_distance_of_itself(model):
    found = model.base.evaluate(PROMPTS, even, samples=4)
    assert found.kl_to_base == 0 and found.success_rate == found.base_success_rate
    assert math.isnan(found.efficiency)


def test_a_run_has_the_same_figures(finished_run):
    model = dinado_jax.load_run(finished_run)
    tree = json.loads((finished_run / "summary.json").read_text())
    assert model.origin.figures == {
        "samples": tree["control"]["samples"],
        "success_rate": tree["control"]["success_rate"],
        "success_rate_error": tree["control"]["success_rate_error"],
        "base_success_rate": tree["base"]["success_rate"],
        "base_success_rate_error": tree["base"]["success_rate_error"],
        "kl_to_base": tree["control"]["kl_to_base"],
        "kl_to_base_error": tree["control"]["kl_to_base_error"],
        "kl_floor": tree["kl_floor"],
        "efficiency": tree["efficiency"],
    }

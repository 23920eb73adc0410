"""The programs of examples/, at the smallest size."""

import importlib.util

import numpy as np
import pytest
import support

import dinado_jax
from dinado_jax.constraints import at_most_words, starts_with

pytestmark = pytest.mark.usefixtures("compiled_quickly")
SETTINGS = {
    "delta.rank": 2,
    "train.steps": 3,
    "train.rounds": 1,
    "train.warmup_direction": 0,
    "train.batch": 8,
    "rollout.batch": 32,
    "rollout.max_new_tokens": 8,
    "parallel.devices": 1,
}
SMALL = {"rollouts": 64, "settings": SETTINGS}


def example(name):
    spec = importlib.util.spec_from_file_location(name, support.ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(finished_run):
    return str(finished_run / "sft" / "base")


def test_a_lambda(base, capsys):
    model = example("lambda_oracle").main(base, lambda text: len(text) % 2 == 0, **SMALL)
    assert isinstance(model, dinado_jax.Controlled)
    *texts, figures = capsys.readouterr().out.splitlines()
    assert figures.startswith("Evaluation(success ") and len(texts) >= 9
    (first,) = model.generate(["robot paint drum ="])
    assert texts[0] == first.text


def test_guaranteed_words(base, tmp_path):
    (tmp_path / "prompts.txt").write_text("dog chase kite =\ncat find ball =\n")
    oracle = at_most_words(3)
    how = SMALL | {"settings": {**SETTINGS, "train.objective": "prefixes"}}
    module = example("guaranteed_words")
    module.NEW_TOKENS = 12
    made = module.main(base, str(tmp_path / "prompts.txt"), oracle, **how)
    assert len(made) == 4 and all(oracle([""] * 4, made))


def test_two_controls(base, capsys):
    oracles = at_most_words(5), ~starts_with("a")
    found = example("two_controls").main(base, oracles, **SMALL)
    assert list(found) == ["base", "red", "short", "both", "both, short milder"]
    assert all(0 <= rate <= 1 for rate in found.values())
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_scores(finished_run, capsys):
    prompt, texts = "dog chase kite =", ["the dog .", "a kite"]
    found = example("score_texts").main(str(finished_run), prompt, *texts)
    model = dinado_jax.load_run(finished_run)
    for text in texts:
        values = model.values(prompt, text)
        further = (values.log_probs - values.log_probs_base).sum()
        np.testing.assert_allclose(found[text], further, atol=1e-4)
    assert "instead of the first token: " in capsys.readouterr().out

"""Prompts that the base does not see: the automata of a control with state know them."""

import json

import numpy as np
import pytest
from support import word_run

import dinado_jax
from dinado_jax.guarantee import guarantee
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.pipeline import load_run, run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.tasks.keyword.lexical import lexical

pytestmark = pytest.mark.usefixtures("compiled_quickly")
HIDDEN = ("base.prompt_template=hidden", "control.state=true", "decode.reject=0")
PROMPTS = ["dog cat =", "bee =", "cow ant ="]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    word_run.write_data(data)
    path = tmp_path_factory.mktemp("hidden") / "run"
    run_stages(word_run.config(data, *HIDDEN), STAGES, path)
    return path


def test_the_base_continues_an_empty_text(run):
    """In its rollouts, which are judged by the prompts, and in those of later rounds."""
    for path in (run / "rollout" / "rollouts.npz", run / "train" / "round_1.npz"):
        rows = Rollouts.load(path)
        assert (rows.prompt_length == 1).all() and len(set(rows.tokens[:, 0].tolist())) == 1
        assert 0 < rows.label.mean() < 1 and len(set(rows.prompt_id.tolist())) > 1
    base = load_run(run).base
    assert base.prompt_template == "hidden"
    first, *others = base.score(PROMPTS, ["a dog and a bee"] * 3)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_the_control_supplies_what_a_prompt_asks_for(run):
    made = load_run(run).generate(PROMPTS, max_new_tokens=6, samples=8, seed=2)
    ended = [one for one in made if one.finished]
    assert len(ended) > 8 and {one.prompt for one in ended} == set(PROMPTS)
    assert all(lexical([one.prompt for one in ended], [one.text for one in ended]))
    rates = json.loads((run / "summary.json").read_text())
    assert rates["control"]["success_rate"] > rates["base"]["success_rate"] + 0.3


def test_masks_supply_it_too_and_a_saved_control_still_does(run, tmp_path):
    model = load_run(run)
    masked, asked = guarantee(model.base, PROMPTS, 12)
    made = masked.generate(asked, max_new_tokens=12, samples=4)
    assert all(lexical([one.prompt for one in made], [one.text for one in made]))
    model.save(tmp_path / "control")
    loaded = dinado_jax.load(tmp_path / "control")
    before, after = (each.generate(PROMPTS, seed=1) for each in (model, loaded))
    assert [one.text for one in before] == [one.text for one in after]

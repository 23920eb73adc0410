"""A run with control.state=true."""

import shutil

import numpy as np
import pytest
from support import word_run
from support.folders import refused

import dinado_jax
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.export import export
from dinado_jax.stages.pipeline import load_run, run_stages
from dinado_jax.tasks.keyword.lexical import lexical

pytestmark = pytest.mark.usefixtures("compiled_quickly")
ON = ("control.state=true", "decode.reject=0")
MIXTURE = 0.25  # of word_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = word_run.finished(tmp_path_factory) / "data"
    path = tmp_path_factory.mktemp("state") / "run"
    run_stages(word_run.config(data, *ON), ("sft", "rollout", "train"), path)
    return path


def test_rows_of_a_mixture_have_the_proposal_of_all_prompts(run):
    """The base's own, most of which fail, are as improbable under q as the state says."""
    rows = Rollouts.load(run / "train" / "round_1.npz")
    ratio = rows.log_proposal - rows.log_base
    failed = rows.label == 0
    assert failed.any() and not failed.all()
    np.testing.assert_allclose(ratio[failed & rows.finished], np.log(MIXTURE), atol=1e-3)
    assert (ratio[~failed] > np.log(MIXTURE) + 0.01).all()
    assert len(set(rows.prompt_id[~failed])) > 1


def test_it_is_no_base_of_its_own(run, tmp_path):
    for form in ("hf", "peft"):
        refused("a control with state .* control.state=false", export, run, tmp_path / "new", form)
    assert not list(tmp_path.iterdir())


def test_a_loaded_control_reads_the_prompts_it_is_given(run):
    model = load_run(run)
    prompts = ["dog cat =", "bee =", "dog cat ="]
    made = dinado_jax.generate(model, prompts, max_new_tokens=6, samples=8, seed=2)
    ended = [one for one in made if one.finished]
    assert ended and all(lexical([one.prompt for one in ended], [one.text for one in ended]))
    free = dinado_jax.generate(model.base, prompts, max_new_tokens=6, samples=8, seed=2)
    assert not all(lexical([one.prompt for one in free], [one.text for one in free]))
    values = model.prompt_values(prompts)
    assert values.shape == (3,) and values[0] == values[2] != values[1]


def begun(run, path):
    """A run with the base and the rollouts of another."""
    for stage in ("sft", "rollout"):
        shutil.copytree(run / stage, path / stage)
    return path


def test_the_table_follows_what_it_achieves(run, tmp_path, tmp_path_factory):
    data, path = word_run.finished(tmp_path_factory) / "data", begun(run, tmp_path / "run")
    config = word_run.config(data, *ON, "train.table_rounds=2")
    run_stages(config, ("train",), path)
    plain = Rollouts.load(path / "rollout" / "rollouts.npz")
    rounds = [Rollouts.load(path / "train" / f"table_{number}.npz") for number in (1, 2)]
    for rows in rounds:
        assert rows.label.mean() > plain.label.mean() + 0.3
        assert len(rows) == config.train.refresh_prompts * config.train.refresh_samples
    assert not np.array_equal(rounds[0].tokens, rounds[1].tokens)
    assert not list(path.glob("train/*_shards"))

    before = (path / "train" / "table_2.npz").read_bytes()
    (path / "train" / "table_2.npz").unlink()
    shutil.rmtree(path / "train" / "control")
    (path / "train" / "done.json").unlink()
    run_stages(config, ("train",), path)
    assert (path / "train" / "table_2.npz").read_bytes() == before


def test_particles_join_every_round(run, tmp_path, tmp_path_factory):
    """They satisfy the oracle far more often than the base's samples."""
    data, path = word_run.finished(tmp_path_factory) / "data", begun(run, tmp_path / "run")
    config = word_run.config(data, *ON, "train.objective=regression", "train.particles=32")
    run_stages(config, ("train",), path)
    plain = Rollouts.load(path / "rollout" / "rollouts.npz")
    for number in range(config.train.rounds):
        rows = Rollouts.load(path / "train" / f"particles_{number}.npz")
        assert rows.particle.all() and len(rows) % 32 == 0
        assert (rows.round == number).all() and rows.label.mean() > plain.label.mean() + 0.3

    before = (path / "train" / "particles_0.npz").read_bytes()
    (path / "train" / "particles_0.npz").unlink()
    shutil.rmtree(path / "train" / "control")
    (path / "train" / "done.json").unlink()
    run_stages(config, ("train",), path)
    assert (path / "train" / "particles_0.npz").read_bytes() == before
    assert not list(path.glob("train/*_shards"))

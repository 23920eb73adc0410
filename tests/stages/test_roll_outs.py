"""A run with train.roll_out above 0: prefixes of q, continued by the base."""

import shutil

import numpy as np
import pytest
from support import by_hand, word_run

from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import suffix_importance_weights
from dinado_jax.stages.pipeline import run_stages

pytestmark = pytest.mark.usefixtures("compiled_quickly")
ON = (
    "train.roll_out=0.5",
    "train.objective=prefixes",
    "train.warmup_direction=0",
    "train.rounds=2",
)
OFF = ("train.margin=6", "train.anchor=0.3", "train.bound=0.3", "train.weight_clip=0.98")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two of four samples of a prompt are roll-outs, one is the base's and one q's."""
    data = word_run.finished(tmp_path_factory) / "data"
    path = tmp_path_factory.mktemp("roll_outs") / "run"
    config = word_run.config(data, *ON, *OFF, "train.bellman_start=1", "train.learning_rate=0.3")
    run_stages(config, ("sft", "rollout", "train"), path)
    return word_run.Files(path, config)


@pytest.fixture(scope="module")
def rows(run):
    return Rollouts.load(run.path / "train" / "roll_outs_1.npz")


def ratios(run, rows):
    """log p / q of every column, by the state at the beginning of the round."""
    q = run.control(run.state(2)["trainable"]).q
    return by_hand.score(run.base(rows.tokens)[1], rows) - by_hand.score(q(rows.tokens)[1], rows)


def test_they_are_the_base_s_from_some_token_on(run, rows):
    """Log p / d of a prefix is that of q up to the switch, and stays as it is after it."""
    assert len(rows) == 4 * 2 and (rows.round == 1).all()
    of_q = np.cumsum(ratios(run, rows), axis=1)
    switches = set()
    for row, before in zip(rows.log_prefix, np.pad(of_q, ((0, 0), (1, 0)))):
        first = next(t for t in range(len(row)) if np.abs(row[t:] - row[-1]).max() < 1e-4)
        np.testing.assert_allclose(row[:first], before[:first], atol=1e-4)
        switches.add(first)
    assert len(switches) > 2


def test_what_follows_the_switch_has_weight_1(rows):
    weight = suffix_importance_weights(rows, "importance")
    whole = (rows.log_base - rows.log_proposal)[:, None]
    after = by_hand.targets(rows) & (np.abs(rows.log_prefix - whole) < 1e-4)
    np.testing.assert_allclose(weight[after], 1, atol=1e-3)
    # Others ended before their switch.
    assert after.any(1).mean() > 0.5
    assert (np.abs(weight - 1)[by_hand.targets(rows)] > 0.01).any()


def test_figures_of_a_round_are_of_samples_of_q(run, rows):
    figures = run.figures("train")["round_1"]
    newest = run.rounds[1]
    assert len(newest) == 4 * 2
    assert figures["rollouts"] == 18 + len(newest) + len(rows)
    assert figures["newest_success_rate"] == pytest.approx(newest.label.mean())
    assert figures["oracle_failures"] == 0


def test_training_that_is_done_again_finds_the_same(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    train = tmp_path / "run" / "train"
    names = ("roll_outs_1.npz", "round_1.npz")
    before = [(train / name).read_bytes() for name in names]
    shutil.rmtree(train)
    run_stages(run.config, ("train",), tmp_path / "run")
    assert [(train / name).read_bytes() for name in names] == before
    assert not list(train.glob("*_shards"))


@pytest.mark.parametrize(
    "objective, settings",
    [
        ("regression", ()),
        ("matching", ("train.margin=6", "train.anchor=0.3", "train.bound=0.3")),
    ],
)
def test_objectives_of_whole_rows_read_them_too(
    run, tmp_path, tmp_path_factory, objective, settings
):
    for stage in ("sft", "rollout"):
        shutil.copytree(run.path / stage, tmp_path / "run" / stage)
    data = word_run.finished(tmp_path_factory) / "data"
    given = ("train.roll_out=0.5", "train.rounds=2", f"train.objective={objective}", *settings)
    run_stages(word_run.config(data, *given), ("train",), tmp_path / "run")
    rows = Rollouts.load(tmp_path / "run" / "train" / "roll_outs_1.npz")
    assert len(rows) == 4 * 2
    losses = [line["loss"] for line in word_run.read_lines(tmp_path / "run/train/train.jsonl")]
    assert len(losses) == 4 and np.isfinite(losses).all()

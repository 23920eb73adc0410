"""A new objective is one class and one line of the table: a throw-away one trains a control."""

import dataclasses
import json

import numpy as np
import pytest
from support import tiny_run

from dinado_jax.config.schema import Train
from dinado_jax.controls.make import make_control
from dinado_jax.data.batching import Draws, take
from dinado_jax.models.architectures import new_model
from dinado_jax.models.params import abstract_params
from dinado_jax.objectives.norm import log_row
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.objectives.terms import Term
from dinado_jax.ops.masks import target_mask
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.training.cost_estimate import training

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@dataclasses.dataclass(frozen=True)
class Imitation:
    """Likelihood of all rollouts, with batches of no kind of their own."""

    train: Train
    parts = 1
    least_samples = 1
    trains_nado = True
    trains_hard = True
    on_policy = False
    draws_references = True

    def batches(self, rollouts, weight, seed):
        draws = Draws(weight, seed)
        return lambda step: take(rollouts, draws.at(step, self.train.batch))

    def terms(self, control, params, base_params, batch):
        log_q = log_row(control.log_policy(base_params, params, batch), batch)
        return {"imitation": Term(-log_q.sum(), target_mask(batch).sum())}

    def reads_states(self, control):
        return () if control.single_pass else ("",)

    def settings_read(self, kind):
        return {"weights"}


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "imitation", Imitation)
    return tiny_run.config(
        "train.objective=imitation", "train.rounds=1", "train.learning_rate=0.03", "train.warmup=0"
    )


def test_a_throw_away_objective_trains(config, tmp_path):
    run_stages(config, STAGES[:3], tmp_path)
    lines = (tmp_path / "train" / "train.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["step"] for line in found] == list(range(1, 7))
    assert all(line["loss"] == line["imitation"] > 0 for line in found)
    assert found[-1]["loss"] < found[0]["loss"]
    assert np.isfinite([line["grad_norm"] for line in found]).all()


def test_the_shapes_of_its_batches_are_known_without_data(config):
    model = new_model(config.base)
    params = abstract_params(model)
    _, _, batch = training(config, make_control(config, model), params, 16)
    assert batch.tokens.shape == (1, config.train.batch, 16)

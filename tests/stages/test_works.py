"""What is shown of a run before it is done: every piece of work, once, with its amount."""

import pytest
from support import tiny_run

from dinado_jax.stages.run_folder import STAGES
from dinado_jax.stages.works import round_ends, works


def amounts(config, kind, names=STAGES):
    return [work.units for work in works(config, names, 7) if work.kind == kind and work.units]


@pytest.mark.parametrize("warm, warm_ups", [(0, []), (2, [2]), (5, [3, 2]), (10, [3, 4, 3])])
def test_steps_of_rounds_are_all_steps(warm, warm_ups):
    """Rounds end at steps 3, 7 and 10."""
    config = tiny_run.config(
        "train.rounds=3", "train.steps=10", f"train.warmup_direction={warm}", "train.average=1"
    )
    assert round_ends(config.train)[-1] == 10
    assert amounts(config, "warm-up") == warm_ups
    assert sum(amounts(config, "warm-up") + amounts(config, "train")) == 10


def test_samples_of_rounds():
    config = tiny_run.config("train.rounds=3", "train.mixture=0.25", "train.refresh_samples=8")
    assert amounts(config, "tokens of the control")[:2] == [8 * 6 * 8] * 2
    assert amounts(config, "tokens of the base") == [8 * 4 * 8, *[8 * 2 * 8] * 2, 7 * 4 * 8]
    assert amounts(config, "tokens of the control")[2:] == [7 * 4 * 8]


def test_roll_outs_of_rounds():
    config = tiny_run.config("train.rounds=2", "train.roll_out=0.75", "train.refresh_samples=8")
    assert amounts(config, "tokens of the control")[0] == 8 * 2 * 8
    assert amounts(config, "tokens of the control beside the base") == [8 * 6 * 8]


def test_stages_are_counted_where_there_are_several():
    config = tiny_run.config()
    labels = [work.label for work in works(config, STAGES, 7)]
    assert labels[0] == "stage 1 of 5: sft" and "stage 3 of 5: train, round 2 of 2" in labels
    assert {work.label for work in works(config, ("rollout",), 7)} == {"rollout"}


def test_a_mask_has_rates_of_its_own():
    config = tiny_run.config("decode.guarantee=true", "rollout.oracle=lexical")
    kinds = [work.kind for work in works(config, ("rollout", "generate"), 7) if work.units]
    assert len(set(kinds)) == 3

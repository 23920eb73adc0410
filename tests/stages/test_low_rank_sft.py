"""Fine-tuning by a low-rank delta, sft.adapter=lora, merged into the base the stage writes."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import tiny_run, word_run
from support.refusal import error_of

from dinado_jax.stages.pipeline import run_stages
from dinado_jax.training.cost_estimate import dry_run

RANK = 2
ADAPTER = f"sft.adapter=lora sft.rank={RANK}"
GIVEN = f"{ADAPTER} sft.steps=4 sft.pretrain_steps=0 run.save_every=2 sft.learning_rate=0.05"


@pytest.fixture(scope="module", autouse=True)
def quickly(compiled_quickly):
    pass


@pytest.fixture(scope="module")
def start(finished_run):
    return finished_run / "sft" / "base"


def tuned(path, start):
    run_stages(tiny_run.config(f"base.path={start}", *GIVEN.split()), ["sft"], path)
    return load_file(path / "sft" / "base" / "model.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory, start):
    path = tmp_path_factory.mktemp("low_rank") / "run"
    return path, tuned(path, start)


def test_kernels_change_by_few_ranks_and_tables_not_at_all(run, start):
    before, (path, after) = load_file(start / "model.safetensors"), run
    assert before.keys() == after.keys()
    for name, weight in before.items():
        change = np.float64(after[name]) - np.float64(weight)
        if name.endswith(("wte.weight", "wpe.weight")):
            assert not change.any()
        elif weight.ndim == 2:
            values = np.linalg.svd(change, compute_uv=False)
            assert values[0] > 1e-3 and values[RANK:].max() < 1e-4 * values[0]
        else:
            assert change.any()
    losses = [
        json.loads(line)["nll"] for line in (path / "sft" / "sft.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0]


def test_a_stopped_stage_continues_to_the_same_base(run, start, tmp_path):
    path, wanted = run
    stopped = tmp_path / "run"
    shutil.copytree(path, stopped)
    (stopped / "sft" / "done.json").unlink()
    shutil.rmtree(stopped / "sft" / "base")
    shutil.rmtree(stopped / "sft" / "checkpoints_sft" / "4")
    found = tuned(stopped, start)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_dry_run_counts_the_delta_alone(start):
    def state_bytes(*adapter):
        settings = tiny_run.config(f"base.path={start}", *adapter)
        return dry_run(settings)["sft_step"]["aliased_bytes"]

    assert 0 < state_bytes("sft.adapter=lora", "sft.rank=1") < state_bytes() / 4


def test_a_rank_too_large_is_refused_before_anything_runs(start):
    settings = tiny_run.config(f"base.path={start}", "sft.adapter=lora", "sft.rank=5000")
    assert error_of(dry_run, settings).startswith("sft.rank = 5000 is more than")


@pytest.mark.parametrize("batch, warned", [(28, False), (36, True)])
def test_rows_that_are_read_too_often(tmp_path_factory, tmp_path, capsys, batch, warned):
    """Eighteen steps of so many of 21 rows."""
    config = word_run.config(word_run.finished(tmp_path_factory) / "data", f"sft.batch={batch}")
    run_stages(config, ("sft",), tmp_path / "run")
    said = capsys.readouterr().err
    assert ("warning: sft reads its 21 rows 31 times" in said) == warned and "18/18 steps" in said

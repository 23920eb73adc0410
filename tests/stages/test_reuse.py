"""Which settings a finished stage depends on, for every key of the schema.

Another value of any of them is refused by name, except for those that change speed and memory
alone.
"""

import dataclasses
import shutil

import pytest
from support import word_run

from dinado_jax.config.schema import Config, Moment, flatten
from dinado_jax.errors import InputError
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES, RunFolder
from dinado_jax.utils.files import read_sealed, write_sealed

FREE = ("name", "run.folder", "run.log_every", "run.save_every", "run.report_to")
FREE += ("parallel.mode", "parallel.fsdp", "parallel.devices")
FREE += ("base.remat", "sft.accumulate", "train.accumulate", "train.base_states", "train.strict")
FREE += ("rollout.batch", "rollout.oracle_seconds", "decode.batch")
STAGE_OF = {
    **dict.fromkeys(("seed", "task", "base", "sft"), "sft"),
    **dict.fromkeys(("rollout", "target"), "rollout"),
    **dict.fromkeys(("delta", "control", "train"), "train"),
    **dict.fromkeys(("decode", "evaluate"), "generate"),
}
SECOND = "evaluate.oracle"  # of the last stage alone: tests/stages/test_second_oracle.py
KEYS = [key for key in flatten(Config()) if key not in (*FREE, SECOND)]
# Values that are no larger or smaller number.
OTHERS = {
    "train.accumulate": 4,
    "parallel.fsdp": 1,
    "rollout.oracle_seconds": 100.0,
    "parallel.devices": 2,
    "sft.accumulate": 5,
    "task.name": "toy",
    "base.param_dtype": "bfloat16",
    "base.dtype": "bfloat16",
    "sft.decay": "cosine",
    "train.decay": "constant",
    "control.kind": "soft",
    "control.direction": "nado",
    "control.form": "projected",
    "control.trunk": "copy",
    "control.norm": "trunk",
    "control.norm_bias": "zero",
    "target.moments": (Moment("mentions_colour", 0.5),),
    "rollout.oracle": "support.word_run:by_number_of_words",
    "train.objective": "ratio",
    "train.weights": "none",
    "train.base_states": "float32",
    "evaluate.split": "test",
    "evaluate.strengths": (1.6, 0.3),
    "parallel.mode": "shard_map",
    "delta.low_rank": ("wte/embedding",),
    "delta.full": (".*/bias",),
}


def changed(config, key):
    """`config` with another value of one setting."""
    value, _ = flatten(config)[key]
    if key in OTHERS:
        other = OTHERS[key]
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, str):
        other = value + "2"
    else:
        other = value + 1 if isinstance(value, int) else value / 2 + 0.017
    section, _, name = key.rpartition(".")
    if not section:
        return dataclasses.replace(config, **{name: other})
    inner = dataclasses.replace(getattr(config, section), **{name: other})
    return dataclasses.replace(config, **{section: inner})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = word_run.finished(tmp_path_factory)
    return folder / "run", word_run.config(folder / "data")


def contents(path):
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != "lock")
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


def test_every_key_belongs_to_a_stage_or_is_free():
    assert {key.partition(".")[0] for key in KEYS} == set(STAGE_OF)
    assert len(KEYS) + len(FREE) + 1 == len(flatten(Config()))


@pytest.mark.parametrize("key", KEYS)
def test_another_value_is_refused_and_earlier_stages_are_reused(run, key):
    path, config = run
    before, stage = contents(path), STAGE_OF[key.partition(".")[0]]
    with pytest.raises(InputError) as caught:
        run_stages(changed(config, key), STAGES, path)
    said = str(caught.value)
    assert said.startswith(f"stage {stage} in {path} was begun with another {key} ("), said
    later = [name for name in STAGES[STAGES.index(stage) :]]
    assert all(name in said.partition("delete")[2] for name in later) and "\n" not in said
    if stage != "sft":
        run_stages(changed(config, key), STAGES[: STAGES.index(stage)], path)
    assert contents(path) == before


def test_what_changes_speed_and_memory_alone_is_free(run):
    path, config = run
    before = contents(path)
    for key in FREE:
        run_stages(changed(config, key), STAGES, path)
    assert contents(path) == before


def test_a_setting_newer_than_the_record_had_the_effect_of_its_default(run, tmp_path):
    path, config = tmp_path / "run", run[1]
    shutil.copytree(run[0], path)
    for name in STAGES:
        record = read_sealed(path / name / "config.json", "")
        del record["settings"]["task"]["dev"]
        write_sealed(path / name / "config.json", record)
    before = contents(path)
    run_stages(config, STAGES, path)
    assert contents(path) == before
    with pytest.raises(InputError, match=r"begun with another task.dev \('', now '2'\)"):
        run_stages(changed(config, "task.dev"), STAGES, path)


@pytest.fixture(scope="module")
def unfinished(run, tmp_path_factory):
    """Stage train has begun; nothing after it."""
    path = tmp_path_factory.mktemp("unfinished") / "run"
    shutil.copytree(run[0], path)
    (path / "train" / "done.json").unlink()
    for name in ("generate", "evaluate"):
        shutil.rmtree(path / name)
    return path


@pytest.mark.parametrize("key", [key for key in KEYS if STAGE_OF[key.partition(".")[0]] == "train"])
def test_of_a_stage_that_is_not_done_the_learning_rate_alone_may_change(run, unfinished, key):
    other = RunFolder(unfinished, changed(run[1], key))
    if key == "train.learning_rate":
        assert other.started("train") is not None
    else:
        with pytest.raises(InputError, match=f"begun with another {key} "):
            other.started("train")


def test_the_fingerprint_of_rollouts_knows_their_settings(run, unfinished):
    """Rounds on disk are those of this stage as it was begun."""
    path, config = run
    assert RunFolder(unfinished, config).fingerprint("train") == RunFolder(
        path, config
    ).fingerprint("train")
    names = ("sft", "rollout", "train", "generate")
    assert len({RunFolder(path, config).fingerprint(name) for name in names}) == len(names)

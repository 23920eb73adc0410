"""What the stages of a command share, and what is not touched before it is needed."""

import shutil

import pytest
from support import tiny_run
from support.refusal import error_of

from dinado_jax.stages.artifacts import training_prompts
from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import load_run, run_stages
from dinado_jax.stages.run_folder import FORMAT, STAGES
from dinado_jax.utils.files import read_sealed, write_sealed


def test_parts_are_kept_once_they_are_made():
    context = Context.of(tiny_run.config())
    for name in ("plan", "mesh", "oracle", "task", "train_examples", "held_out", "prompt_file"):
        assert getattr(context, name) is getattr(context, name)


def test_nothing_is_resolved_or_read_before_it_is_asked_for(tmp_path):
    nowhere = ("rollout.oracle=no_such_module:oracle", f"evaluate.prompt_file={tmp_path / 'no'}")
    context = Context.of(tiny_run.config(*nowhere, "parallel.devices=99"), tmp_path)
    assert context.run.path == tmp_path
    assert "importing no_such_module raised" in error_of(lambda: context.oracle)
    assert "no such file" in error_of(lambda: context.held_out)
    assert "parallel.devices = 99" in error_of(lambda: context.plan)
    assert "stage sft is not done" in error_of(lambda: context.base_fingerprint)


def test_the_oracle_is_the_task_s_own_unless_another_is_named():
    assert Context.of(tiny_run.config("rollout.oracle=")).oracle.name == "lexical"
    assert Context.of(tiny_run.config()).oracle.function is tiny_run.even


def test_training_prompts_are_shuffled_cycles():
    context = Context.of(tiny_run.config("task.train_examples=30"))
    distinct = {example.prompt for example in context.train_examples}
    prompts = training_prompts(context, 0, 2 * len(distinct))
    first, second = prompts[: len(distinct)], prompts[len(distinct) :]
    assert set(first) == set(second) == distinct and first != second
    assert training_prompts(context, 7, 40) == prompts[7:47]


def test_a_run_is_loaded_where_its_oracle_is_not_installed(finished_run, tmp_path, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "run")
    monkeypatch.delattr(tiny_run, "even")
    assert load_run(tmp_path / "run").base.max_new_tokens == 8


@pytest.mark.parametrize("written", [None, 3, FORMAT - 1])
def test_a_run_of_another_version_is_refused_in_a_line(finished_run, tmp_path, written):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    record = run / "sft" / "config.json"
    content = read_sealed(record, "")
    assert content.pop("format")
    # Settings that this version does not know: the format is told first.
    content["settings"]["sft"]["other"] = 3
    (run / "config.json").write_text('{"sft": {"other": 3}}')
    write_sealed(record, content if written is None else {"format": written, **content})
    told = f"{record} was written by another version of dinado-jax: delete the folder {run} "
    assert told in error_of(run_stages, tiny_run.config(), STAGES, run)
    assert told in error_of(load_run, run)

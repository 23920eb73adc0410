"""`dinado export`: a run's control as files for transformers and peft."""

import shutil

import jax
import numpy as np
import pytest
from support import tiny_run
from support.folders import refused

import dinado_jax
from dinado_jax import cli
from dinado_jax.stages.export import export
from dinado_jax.stages.pipeline import load_run, run_stages
from dinado_jax.stages.run_folder import STAGES

pytestmark = pytest.mark.usefixtures("compiled_quickly")
TOKENS = np.arange(32, dtype=np.int32).reshape(2, 16)
LAYERS = {"nado": ("control.layers=1",)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, finished_run):
    """`trained(*overrides)`: the folder of a run of other settings whose train stage is done."""

    def run(*overrides):
        folder = tmp_path_factory.mktemp("exported") / "run"
        for stage in STAGES[:2]:
            shutil.copytree(finished_run / stage, folder / stage)
        quick = ("train.steps=3", "train.rounds=1", "train.learning_rate=0.05")
        run_stages(tiny_run.config(*quick, *overrides), ("train",), folder)
        return folder

    return run


@pytest.fixture(scope="module")
def low_rank(trained):
    return trained("delta.full=[]")


def logits(model):
    return np.asarray(model.base.model.apply(model.variables, TOKENS).logits)


@pytest.mark.parametrize("form", ["hf", "peft"])
def test_what_is_read_back_is_q(low_rank, form, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    cli.main(["export", str(low_rank), str(folder), "--format", form])
    assert capsys.readouterr().out == f"{folder}\n"
    model = load_run(low_rank)
    parts = [folder] if form == "hf" else [low_rank / "sft" / "base", folder]
    found = dinado_jax.load(parts[0], adapter=parts[1] if form == "peft" else "")
    np.testing.assert_allclose(logits(found), logits(model), rtol=0, atol=1e-5)
    assert np.abs(logits(found) - logits(model.base)).max() > 1e-2
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert found.codec.decode([[5, 9]]) == model.base.codec.decode([[5, 9]])


def test_an_empty_folder_is_filled(finished_run, tmp_path):
    (tmp_path / "empty").mkdir()
    export(finished_run, tmp_path / "empty", "hf")
    found, model = dinado_jax.load(tmp_path / "empty"), load_run(finished_run)
    np.testing.assert_allclose(logits(found), logits(model), rtol=0, atol=1e-5)


def test_a_run_in_low_precision_is_merged_in_float32(tmp_path):
    run = tmp_path / "run"
    run_stages(tiny_run.config("base.param_dtype=bfloat16"), STAGES[:3], run)
    export(run, tmp_path / "merged", "hf")
    model = load_run(run)
    adapter, delta = model.delta()
    exact = jax.tree.map(lambda leaf: leaf.astype("float32"), model.base.params)
    found = dinado_jax.load(tmp_path / "merged").params
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(adapter.merge(exact, delta)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_folders_with_files_are_kept(finished_run, tmp_path):
    (tmp_path / "file").write_text("kept")
    said = "is there already: name a new folder, or an empty one"
    refused(said, export, finished_run, tmp_path, "hf")
    refused(said, export, finished_run, tmp_path / "file", "hf")
    refused("a part of this path is a file", export, finished_run, tmp_path / "file" / "a", "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_other_controls(trained, tmp_path):
    run = trained("control.kind=nado", "control.layers=1", "train.objective=published")
    said = f"control of {run} is not exported, only a merge control, .*control.kind=merge"
    for form in ("hf", "peft"):
        refused(said, export, run, tmp_path / "new", form)
    assert not list(tmp_path.iterdir())


def test_what_an_adapter_cannot_hold(finished_run, tmp_path):
    said = "not exported, the delta changes h_0/.* and .* more: .* use --format hf"
    refused(said, export, finished_run, tmp_path / "new", "peft")
    assert not list(tmp_path.iterdir())


def test_other_bases_as_gguf(finished_run, tmp_path):
    said = "is not exported, a gpt2 is not written as GGUF, .* use --format hf"
    refused(said, export, finished_run, tmp_path / "new", "gguf")
    assert not list(tmp_path.iterdir())


def test_runs_that_are_not_done(finished_run, tmp_path):
    for part in ("sft", "rollout"):
        shutil.copytree(finished_run / part, tmp_path / "run" / part)
    shutil.copy(finished_run / "config.json", tmp_path / "run")
    refused("stage train of .* is not done", export, tmp_path / "run", tmp_path / "new", "hf")
    refused("no such folder", export, tmp_path / "nowhere", tmp_path / "new", "hf")
    assert not (tmp_path / "new").exists()


def test_slips_of_the_command_line(capsys):
    for argv, said in (
        (["a", "b", "c"], "'c' is one argument too many: leave it out"),
        (["a"], "`dinado export`, DIR is missing"),
        (
            ["a", "b", "--format", "onnx"],
            "--format: invalid choice: 'onnx': one of hf, gguf, peft, control",
        ),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(["export", *argv])
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["merge", "nado"])
def test_a_control_of_any_kind_without_its_run(kind, trained, tmp_path, capsys):
    run = trained(f"control.kind={kind}", "train.objective=published", *LAYERS.get(kind, ()))
    cli.main(["export", str(run), str(tmp_path / "control"), "--format", "control"])
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'control'}\n")
    model, found = load_run(run), dinado_jax.load(tmp_path / "control")
    assert found.base.folder == (run / "sft" / "base").resolve()
    assert found.base.max_new_tokens == model.base.max_new_tokens == 8
    asked = ["dog chase kite ="], ["the dog chases a kite ."]
    np.testing.assert_array_equal(found.score(*asked)[0], model.score(*asked)[0])
    assert found.origin.settings.rollout.oracle == "support.tiny_run:even"

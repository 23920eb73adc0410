"""A run of the tiniest model towards two moments, followed from file to file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import stops, tiny_run
from support.refusal import error_of

from dinado_jax.distributed import signals
from dinado_jax.loading import load
from dinado_jax.oracles.moments import Tilt
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.pipeline import run_stages, show_report
from dinado_jax.stages.run_folder import STAGES

FEATURES = """
def early(prompts, texts):
    return [sum(letter < "k" for letter in text) for text in texts]

def thirds(prompts, texts):
    return [len(text) % 3 == 0 for text in texts]

def rare(prompts, texts):
    return [False] * len(texts)

def raising(prompts, texts):
    raise KeyError("always")
"""
ORACLE = "support.tiny_run:even"  # beside the moments


def config(*more, mean=0.6, feature="features_here:thirds", oracle=ORACLE):
    moments = [("features_here:early", 12.0), (feature, mean)]
    tables = ", ".join(f"{{feature = '{name}', mean = {mean}}}" for name, mean in moments)
    return tiny_run.config(f"target.moments=[{tables}]", f"rollout.oracle={oracle}", *more)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The features, in a module that can be imported."""
    with tiny_run.quick_compilation(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("module")
        (folder / "features_here.py").write_text(FEATURES)
        patch.syspath_prepend(str(folder))
        yield __import__("features_here")


@pytest.fixture(scope="module")
def run(module, finished_run, tmp_path_factory):
    """The finished run: its base is that of `finished_run`."""
    path = tmp_path_factory.mktemp("target") / "run"
    shutil.copytree(finished_run / "sft", path / "sft")
    run_stages(config(), STAGES, path)
    return path


def read(path):
    return json.loads(path.read_text())


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def values(module, texts):
    columns = [feature(None, texts) for feature in (module.early, module.thirds)]
    return np.stack(columns, axis=1).astype(np.float64)


def texts_of(run, rows):
    codec = load(run / "sft" / "base").codec
    spans = zip(rows.tokens, rows.prompt_length, rows.length)
    return codec.decode([tokens[start:end] for tokens, start, end in spans])


def test_rollouts_of_every_round_have_the_labels_of_the_tilt(module, run):
    tree = read(run / "rollout" / "moments.json")
    tilt = Tilt(
        tuple(moment["coefficient"] for moment in tree["moments"]), tree["bound"], tree["smallest"]
    )
    for file in ("rollout/rollouts.npz", "train/round_1.npz"):
        rows = Rollouts.load(run / file)
        texts = texts_of(run, rows)
        even = np.array(tiny_run.even(None, texts), np.float64)
        wanted = even * np.exp(values(module, texts) @ tilt.coefficients - tilt.bound)
        np.testing.assert_allclose(rows.label, np.minimum(wanted, 1), rtol=1e-4)
        if file.startswith("rollout"):
            assert rows.label.max() == pytest.approx(1)
            # Prompts are so few that their normalisers differ from one for all.
            means = np.average(values(module, texts), axis=0, weights=rows.label)
            assert abs(means[1] - 0.6) < 0.2 and abs(means[0] - 12) < 2
            base = [moment["base"] for moment in tree["moments"]]
            np.testing.assert_allclose(base, values(module, texts).mean(axis=0), rtol=1e-4)
    figures = read(run / "rollout" / "done.json")["figures"]
    assert figures["label_range"] == pytest.approx(tilt.bound - tilt.smallest)


def test_the_summary_has_base_wanted_and_reached_means(module, run, capsys):
    summary = read(run / "summary.json")
    assert [moment["wanted"] for moment in summary["moments"]] == [12.0, 0.6]
    for name in ("base", "control"):
        lines = read_lines(run / "generate" / f"{name}.jsonl")
        texts = [line["text"] for line in lines]
        # The oracle alone judges what is generated.
        assert [line["label"] for line in lines] == tiny_run.even(None, texts)
        assert summary[name]["success_rate"] == pytest.approx(np.mean(tiny_run.even(None, texts)))
        found = values(module, texts)
        by_prompt = found.reshape(8, 4, 2).mean(axis=1)
        for number, moment in enumerate(summary["moments"]):
            error = by_prompt[:, number].std(ddof=1) / np.sqrt(8)
            assert moment[name] == pytest.approx(found[:, number].mean())
            assert moment[f"{name}_error"] == pytest.approx(error)
    assert summary["efficiency_by_prompt"] == summary["efficiency"]
    show_report(config(), run)
    said = capsys.readouterr().out
    page = (run / "report.html").read_text()
    for moment in summary["moments"]:
        label = f"mean of {moment['feature']} (wanted: {moment['wanted']:.4g})"
        cell = f"{moment['control']:.3f} ± {moment['control_error']:.3f}"
        assert label in page and cell in page
        assert any(line.startswith(label) and cell in line for line in said.splitlines())


def test_a_second_call_does_nothing(run, capsys):
    run_stages(config(), STAGES, run)
    assert capsys.readouterr().err.count("already done") == len(STAGES)


def test_other_moments_of_a_finished_run_are_refused(run):
    said = error_of(run_stages, config(mean=0.7), STAGES, run)
    assert "stage rollout" in said and "begun with another target.moments" in said


def test_another_source_of_a_feature_is_refused(module, run):
    path = Path(module.__file__)
    try:
        path.write_text(FEATURES + "\n# another\n")
        for stages in (STAGES, ("train",), ("evaluate",)):
            said = error_of(run_stages, config(), stages, run)
            assert "other content of target.moments (the source of features_here:" in said
    finally:
        path.write_text(FEATURES)


def test_moments_that_cannot_be_met_keep_the_samples(module, finished_run, tmp_path, monkeypatch):
    path, calls = tmp_path / "run", []
    shutil.copytree(finished_run / "sft", path / "sft")
    even = tiny_run.even
    monkeypatch.setattr(tiny_run, "even", lambda p, t: calls.append(len(t)) or even(p, t))
    for wrong, said in (
        (config(mean=1.5), "feature features_here:thirds: a mean of 1.5 is wanted"),
        (config(feature="features_here:rare"), "feature features_here:rare never occurs"),
        (config(feature="features_here:raising"), "feature raising, all 2 samples raised"),
        (config(feature="features_here:none"), "has no function none"),
    ):
        assert said in error_of(run_stages, wrong, STAGES[:2], path)
        assert len(list((path / "rollout" / "shards").glob("*.npz"))) == 1
        assert not (path / "rollout" / "done.json").exists()
    run_stages(config(), STAGES[:2], path)
    assert sum(calls) == 32 + 2 * len(calls[1:])  # once, and two rows as a test of each command


def test_a_run_that_was_stopped_continues(run, finished_run, tmp_path, monkeypatch):
    path = tmp_path / "run"
    shutil.copytree(finished_run / "sft", path / "sft")
    for reached in (
        (path / "rollout" / "shards").exists,
        (path / "train" / "round_1_shards").exists,
    ):
        with monkeypatch.context() as patch, pytest.raises(signals.Stopped):
            stops.stop_when(patch, reached)
            run_stages(config(), STAGES, path)
    run_stages(config(), STAGES, path)
    kept = ("base", "control", "moments", "kl_floor")
    one, other = read(run / "summary.json"), read(path / "summary.json")
    assert [one[key] for key in kept] == [other[key] for key in kept]


def test_without_an_oracle_every_text_is_admitted(module, finished_run, tmp_path):
    """Also where references join the rollouts."""
    path, given = tmp_path / "run", ("rollout.references=true", "train.reference_weight=1.0")
    shutil.copytree(finished_run / "sft", path / "sft")
    run_stages(config(*given, oracle=""), STAGES[:2], path)
    rows = Rollouts.load(path / "rollout" / "rollouts.npz")
    assert rows.reference.any() and (rows.label > 0).all()
    tree = read(path / "rollout" / "moments.json")
    lambdas = [moment["coefficient"] for moment in tree["moments"]]
    wanted = np.exp(values(module, texts_of(path, rows)) @ lambdas - tree["bound"])
    np.testing.assert_allclose(rows.label, np.minimum(wanted, 1), rtol=1e-4)
    assert read(path / "rollout" / "done.json")["figures"]["success_rate"] == pytest.approx(1)

"""Stage sft under dropout: rates that are computed once, noise in training, none after it."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import tiny_run
from support.commands import refused
from support.refusal import error_of

import dinado_jax
from dinado_jax.config.schema import Parallel
from dinado_jax.data.batching import Epochs
from dinado_jax.data.sequences import sequences
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.models.dropout import Dropout
from dinado_jax.objectives.sft import likelihood, with_noise
from dinado_jax.stages.context import Context
from dinado_jax.stages.dropout import sample_text
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.training.cost_estimate import dry_run
from dinado_jax.training.fisher import fisher_scores, rank_schedule

RATE, SEED = 0.3, 0
TUNED = f"sft.dropout_rate={RATE} sft.steps=4 run.save_every=2"


@pytest.fixture(scope="module", autouse=True)
def quickly(compiled_quickly):
    pass


@pytest.fixture(scope="module")
def start(finished_run):
    return finished_run / "sft" / "base"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "plain.txt"
    path.write_text("".join(f"the {a} dog chased a {b}\n" for a in ("red", "old") for b in "xyz"))
    return path


def config(start, kind, *more):
    return tiny_run.config(f"base.path={start}", f"sft.dropout={kind}", *TUNED.split(), *more)


@pytest.fixture(scope="module")
def run(tmp_path_factory, start, plain):
    path = tmp_path_factory.mktemp("guided") / "run"
    settings = config(start, "guided", f"sft.pretrain_path={plain}")
    run_stages(settings, ["sft"], path)
    return settings, path


def kept(path):
    return json.loads((path / "sft" / "dropout.json").read_text())


def figures(path):
    return json.loads((path / "sft" / "done.json").read_text())["figures"]


def test_rates_are_by_rank_of_the_scores_of_the_plain_text(run, start, plain):
    _, path = run
    base, lines = dinado_jax.load(start), plain.read_text().splitlines()
    found = kept(path)
    assert found["rows"] == len(lines) == 6
    begun, targets = base.codec.prompts([""] * 6), base.codec.targets(lines)
    rows = Epochs(sequences(begun, targets, base.codec.eos_id, 16), 6, 0).at(0)
    wanted = fisher_scores(base.model, base.params, rows, make_plan(Parallel(devices=1)))
    assert found["scores"] == pytest.approx(wanted, rel=1e-4)
    assert found["rates"] == rank_schedule(found["scores"], RATE) == figures(path)["dropout_rates"]
    assert sorted(found["rates"].values()) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_the_loss_is_that_under_the_noise_of_seed_and_step(run, start):
    settings, path = run
    base = dinado_jax.load(start)
    pairs = [(e.prompt, r) for e in Context.of(settings, path).train_examples for r in e.references]
    prompts = base.codec.prompts([prompt for prompt, _ in pairs])
    targets = base.codec.targets([text for _, text in pairs])
    fit = [i for i, (p, t) in enumerate(zip(prompts, targets)) if len(p) + len(t) <= 16]
    rows = sequences([prompts[i] for i in fit], [targets[i] for i in fit], base.codec.eos_id, 16)
    batch = with_noise(Epochs(rows, 8, SEED).at, SEED)(0)
    rates = kept(path)["rates"]
    dropout = Dropout(tuple((site, rates[site]) for site in base.model.dropout_sites))
    noisy, plain = (
        likelihood(base.model, None, base.params, None, batch, one)["nll"]
        for one in (dropout, None)
    )
    first = json.loads((path / "sft" / "sft.jsonl").read_text().splitlines()[0])
    assert first["nll"] == pytest.approx(float(noisy.sum / noisy.weight), rel=1e-5)
    assert abs(first["nll"] - float(plain.sum / plain.weight)) > 1e-3


def test_a_stopped_stage_continues_to_the_same_base_by_the_same_rates(run, tmp_path):
    settings, path = run
    stopped = tmp_path / "run"
    shutil.copytree(path, stopped)
    (stopped / "sft" / "done.json").unlink()
    shutil.rmtree(stopped / "sft" / "base")
    shutil.rmtree(stopped / "sft" / "checkpoints_sft" / "4")
    before = (stopped / "sft" / "dropout.json").stat().st_mtime_ns
    run_stages(settings, ["sft"], stopped)
    wanted, found = (load_file(each / "sft/base/model.safetensors") for each in (path, stopped))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert (stopped / "sft" / "dropout.json").stat().st_mtime_ns == before
    # Rates that somebody has changed are not trained with.
    (stopped / "sft" / "done.json").unlink()
    text = (stopped / "sft" / "dropout.json").read_text()
    (stopped / "sft" / "dropout.json").write_text(text.replace('"rows": 6', '"rows": 7'))
    said = error_of(run_stages, settings, ["sft"], stopped)
    assert "dropout.json, changed since it was written" in said and "and run again" in said


def test_gaussian_noise_is_in_training_alone(run, start, tmp_path):
    """The model that the stage writes has no dropout: decoding has no way to draw noise."""
    run_stages(config(start, "gaussian"), ["sft"], tmp_path / "run")
    assert set(figures(tmp_path / "run")["dropout_rates"].values()) == {RATE}
    assert not (tmp_path / "run" / "sft" / "dropout.json").exists()
    tuned, before = dinado_jax.load(tmp_path / "run" / "sft" / "base"), dinado_jax.load(start)
    assert tuned.model == before.model
    losses = [
        json.loads((path / "sft" / "sft.jsonl").read_text().splitlines()[0])["nll"]
        for path in (tmp_path / "run", run[1])
    ]
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("count, wanted", [(20, 20), (500, 128), (20_000, 200)])
def test_about_one_percent_of_the_text_is_enough(start, count, wanted):
    codec = dinado_jax.load(start).codec
    rows = sequences([[0]] * count, [[1 + i % 500, 0] for i in range(count)], 0, 8)
    lines = [f"dog {i}" for i in range(count)]
    text, own = (sample_text(corpus, rows, codec, 16, SEED) for corpus in (lines, []))
    assert len(text.length) == len(own.length) == wanted
    assert len({tuple(row) for row in text.tokens.tolist()}) == wanted
    assert (text.length > text.prompt_length).all()


def test_a_dry_run_counts_the_noise(start):
    def flops(kind, *more):
        given = tiny_run.config(f"base.path={start}", f"sft.dropout={kind}", *more)
        return dry_run(given)["sft_step"]["flops_at_least"]

    assert flops("guided") > flops("none")


def test_bad_input_is_one_line(start, tmp_path, capsys):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    guided = ["sft", tiny_run.CONFIG, "sft.dropout=guided"]
    assert refused(capsys, guided).startswith(
        "sft.dropout = guided: a new base has learned nothing"
    )
    guided += [f"base.path={start}", "--out", tmp_path / "run"]
    assert "no text there" in refused(capsys, [*guided, f"sft.pretrain_path={empty}"])
    for rate in ("1", "-0.1"):
        said = refused(capsys, [*guided, f"sft.dropout_rate={rate}"])
        assert said.startswith("sft.dropout_rate = ") and "must be in [0, 1)" in said
    said = refused(capsys, ["sft", tiny_run.CONFIG, "sft.dropout=uniform", "sft.dropout_rate=0"])
    assert "rates are multiples of 1/256, set" in said and "or sft.dropout=none" in said
    said = refused(capsys, ["sft", tiny_run.CONFIG, "sft.dropout=gaussian", "sft.dropout_rate=0"])
    assert said == "sft.dropout_rate = 0: there is no noise, set more, or sft.dropout=none"
    said = refused(capsys, ["sft", tiny_run.CONFIG, "sft.dropout_rate=0.2"])
    assert said.startswith("sft.dropout_rate = 0.2 in the command line has no effect")
    said = refused(capsys, ["sft", tiny_run.CONFIG, "sft.dropout=guide"])
    assert said == "sft.dropout = 'guide': did you mean 'guided'?"

"""A run with decode.particles: each text of the control is chosen among particles by the oracle."""

import json
import math

import numpy as np
import pytest
from support import word_run
from support.folders import refused
from support.word_run import read_lines

from dinado_jax import cli
from dinado_jax.stages.completions import completions
from dinado_jax.stages.pipeline import run_stages, show_report
from dinado_jax.stages.settings import load_config, with_decoding
from dinado_jax.tasks.keyword.lexical import lexical

pytestmark = pytest.mark.usefixtures("compiled_quickly")
# Of what the words run has set, particles do not read these.
ON = (
    "decode.particles=4",
    "decode.reject=0",
    "decode.target_rate=1",
    "decode.temperature=1",
    "decode.top_k=0",
    "decode.top_p=1",
    "decode.max_new_tokens=10",
    "evaluate.strengths=[]",
)


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    return word_run.trained(tmp_path_factory, tmp_path / "run")


def test_texts_succeed_more_often_and_the_kl_is_bounded(copy, capsys):
    data, path = copy
    free = read_lines(data.parent / "run" / "generate" / "control.jsonl")
    run_stages(word_run.config(data, *ON), ("generate", "evaluate"), path)
    base, control = (read_lines(path / "generate" / f"{n}.jsonl") for n in ("base", "control"))
    labels = lexical([one["prompt"] for one in control], [one["text"] for one in control])
    assert [one["label"] for one in control] == labels
    assert [one["prompt_id"] for one in control] == [one["prompt_id"] for one in base]
    rate = [np.mean([one["label"] for one in lines]) for lines in (base, free, control)]
    assert rate[2] > max(rate[:2])
    excess = np.array([one["log_prob"] - one["log_prob_base"] for one in control])
    summary = json.loads((path / "summary.json").read_text())
    assert summary["control"]["kl_to_base"] == pytest.approx(excess.mean())
    capsys.readouterr()
    show_report(word_run.config(data, *ON), path)
    assert "KL to the base (nats per sequence), at most" in capsys.readouterr().out
    assert "KL to the base at most" in (path / "report.html").read_text()
    # The oracle's labels are 0 or 1, so that log R0 is estimated by what the successes exceed.
    rates = np.where(labels, np.exp(-excess), 0).reshape(len(set(x["prompt"] for x in base)), -1)
    if (rates.sum(1) > 0).all():
        assert summary["kl_of_target"] == pytest.approx(-np.log(rates.mean(1)).mean())
    else:
        assert summary["kl_of_target"] is None


def test_the_runs_particles_continue_other_prompts(copy, capsys):
    data, path = copy
    run_stages(word_run.config(data, *ON), ("generate", "evaluate"), path)
    capsys.readouterr()
    asked = ("--prompt", "dog cat =", "--prompt", "bee =", "--samples", "8", "--json")
    cli.main(["generate", str(path), *asked])
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["prompt"] for one in made] == ["dog cat ="] * 8 + ["bee ="] * 8
    assert all(math.isfinite(one["log_prob"]) for one in made)
    assert any(lexical([one["prompt"] for one in made], [one["text"] for one in made]))
    cli.main(["generate", str(path), *asked, "--particles", "0"])
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["text"] for one in plain] != [one["text"] for one in made]
    told = "decode.particles = 1: .*2 or more"
    refused(told, lambda: completions(path, ["dog ="], particles=1))


def test_particles_are_refused_where_the_run_decodes_otherwise(copy):
    data, path = copy
    told = "decode.reject = 0.3 rules out"
    refused(told, lambda: completions(path, ["dog ="], particles=4))
    told = "decode.temperature = 0.9 in the run has no effect"
    config = word_run.config(data, "decode.reject=0")
    refused(told, with_decoding, config, ["decode.particles=4"])
    again = with_decoding(config, ["decode.strength=0.5"])
    assert again.decode.strength == 0.5 and again.decode.particles == 0


def test_under_the_guarantee_every_text_succeeds(copy):
    data, path = copy
    run_stages(word_run.config(data, *ON, "decode.guarantee=true"), ("generate", "evaluate"), path)
    control = read_lines(path / "generate" / "control.jsonl")
    assert all(one["label"] for one in control)
    summary = json.loads((path / "summary.json").read_text())
    assert summary["control"]["success_rate"] == 1
    assert 0 < summary["kl_of_target"] < summary["control"]["kl_to_base"] + 1e-6


def test_what_it_does_not_go_with():
    for key, value in (
        ("temperature", "0.5"),
        ("top_k", "5"),
        ("top_p", "0.5"),
        ("target_rate", "0.5"),
    ):
        told = rf"decode.{key}.*decode.particles=0"
        refused(told, load_config, None, [ON[0], f"decode.{key}={value}"])
    refused("decode.reject = 0.1 rules out", load_config, None, [ON[0], "decode.reject=0.1"])
    moment = "target.moments=[{feature='mentions_colour',mean=0.5}]"
    refused("decode.particles = 4 chooses", load_config, None, [ON[0], moment])
    refused("decode.particles = 1: .*2 or more", load_config, None, ["decode.particles=1"])
    given = ["control.state=true", "train.particles=1"]
    refused("train.particles = 1: .*2 or more", load_config, None, given)

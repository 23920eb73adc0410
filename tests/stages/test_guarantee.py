"""A run with decode.guarantee=true: every text of the control satisfies the lexical oracle."""

import json

import pytest
from support import tiny_run, word_run
from support.folders import refused
from support.word_run import read_lines

from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.stages.settings import load_config
from dinado_jax.tasks.keyword.lexical import lexical, words

pytestmark = pytest.mark.usefixtures("compiled_quickly")
ON = ("decode.guarantee=true", "decode.reject=0", "decode.max_new_tokens=10")


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    return word_run.trained(tmp_path_factory, tmp_path / "run")


def test_every_sample_of_the_control_satisfies_the_oracle(copy):
    data, path = copy
    free = read_lines(data.parent / "run" / "generate" / "control.jsonl")
    assert not all(line["label"] for line in free)
    run_stages(word_run.config(data, *ON), ("generate", "evaluate"), path)
    names = ("base", "control", "strengths/0.7")
    base, control, weaker = (read_lines(path / "generate" / f"{name}.jsonl") for name in names)
    assert weaker and all(line["label"] for line in weaker)
    assert [line["prompt"] for line in control] == [line["prompt"] for line in free]
    assert all(line["label"] for line in control)
    assert all(lexical([one["prompt"] for one in control], [one["text"] for one in control]))
    assert not all(line["label"] for line in base)
    summary = json.loads((path / "summary.json").read_text())
    assert summary["base"]["success_rate"] < summary["control"]["success_rate"] == 1
    assert 0 < summary["kl_floor"] < summary["control"]["kl_to_base"]


def test_at_strength_0_it_is_the_base_under_the_mask(copy):
    data, path = copy
    only = ("decode.strength=0", "decode.target_rate=1")
    run_stages(word_run.config(data, *ON, *only), ("generate", "evaluate"), path)
    base, control = (read_lines(path / "generate" / f"{n}.jsonl") for n in ("base", "control"))
    assert all(line["label"] for line in control)
    pairs = [(b["text"], c["text"]) for b, c in zip(base, control) if b["label"]]
    assert pairs and all(before == after for before, after in pairs)  # the same random numbers


def test_what_it_does_not_go_with():
    text = r"decode.guarantee = true needs .*automata.*, and this run has support.tiny_run:even"
    refused(text, tiny_run.config, "decode.guarantee=true")
    moment = "target.moments=[{feature='mentions_colour',mean=0.5}]"
    refused("this run has no oracle", load_config, None, [ON[0], moment])
    refused("decode.reject = 0.1", load_config, None, [ON[0], "decode.reject=0.1"])


def test_prompts_that_cannot_be_met_are_refused_before_decoding(copy):
    data, path = copy
    config = word_run.config(data, *ON[:2], "decode.max_new_tokens=1")
    refused("its constraints may need .* raise it", run_stages, config, ("generate",), path)
    assert not list((path / "generate").glob("*_shards/*"))


def test_any_oracle_that_has_automata_is_guaranteed(tmp_path, monkeypatch):
    (tmp_path / "short_here.py").write_text(
        "from dinado_jax.constraints.counting import at_least_words, at_most_words\n"
        "few = at_least_words(2) & at_most_words(3)\n"
    )
    monkeypatch.chdir(tmp_path)
    config = tiny_run.config("rollout.oracle=short_here:few", *ON, "decode.max_new_tokens=10")
    run_stages(config, STAGES, tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "generate" / "control.jsonl")
    assert lines and all(line["label"] for line in lines)
    assert all(2 <= len(words(line["text"])) <= 3 for line in lines)

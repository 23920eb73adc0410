"""Expressions as the oracle of a run."""

import json
import re

import numpy as np
import pytest
from support import tiny_run, word_run
from support.refusal import error_of

import dinado_jax
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.context import Context
from dinado_jax.stages.input_digests import input_digests
from dinado_jax.stages.pipeline import load_run, run_stages

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = ["dog chase kite =", "cat carry ball =", "girl kick box ="]
SHORT = "keywords & length <= 5 & without('fox')"


@pytest.fixture(scope="module")
def state_run(tmp_path_factory):
    data = word_run.finished(tmp_path_factory) / "data"
    path = tmp_path_factory.mktemp("expression") / "run"
    settings = ("control.state=true", "decode.reject=0", f"rollout.oracle={SHORT}")
    run_stages(word_run.config(data, *settings), ("sft", "rollout", "train"), path)
    return path


def satisfied(prompt, text):
    words = re.findall(r"[^\W_]+", text)
    return (
        {*prompt.removesuffix(" =").split()} <= {*words} and len(words) <= 5 and "fox" not in words
    )


def test_a_control_reads_the_state_of_an_expression(state_run):
    model = load_run(state_run)
    assert model.automata_of is not None and len(model.automata_of("dog cat =")) == 4
    prompts = ["dog cat =", "bee ="]

    def share(model):
        made = dinado_jax.generate(model, prompts, max_new_tokens=6, samples=128, seed=2)
        ended = [satisfied(one.prompt, one.text) for one in made if one.finished]
        return np.mean(ended)

    # No guarantee is asked for, and training is a few steps: most texts, not all.
    assert share(model) > 0.8
    assert share(model.base) < 0.4


def test_labels_are_those_of_the_expression(state_run):
    rows = Rollouts.load(state_run / "rollout" / "rollouts.npz")
    codec = load_run(state_run).base.codec
    texts = codec.decode(
        [row[a:b] for row, a, b in zip(rows.tokens, rows.prompt_length, rows.length)]
    )
    prompts = codec.decode([row[:a] for row, a in zip(rows.tokens, rows.prompt_length)])
    known = [  # a part of a character may stand for anything
        (satisfied(prompt.strip(), text), label)
        for prompt, text, label in zip(prompts, texts, rows.label)
        if "\ufffd" not in text
    ]
    assert all(expected == label for expected, label in known)
    assert 0 < sum(expected for expected, _ in known) < len(known)


def test_a_saved_control_finds_an_expression_of_this_package(state_run, tmp_path):
    model = load_run(state_run)
    model.save(tmp_path / "control")
    again = dinado_jax.load_control(tmp_path / "control", model.base)
    assert again.automata_of("dog =") == model.automata_of("dog =")


def test_fit_takes_an_expression(finished_run, tmp_path):
    base = dinado_jax.load(finished_run / "sft" / "base")
    settings = {
        "delta.rank": 2, "train.steps": 2, "train.rounds": 1, "train.warmup_direction": 0,
        "train.batch": 8, "rollout.batch": 32, "rollout.max_new_tokens": 8, "parallel.devices": 1,
        "rollout.oracle_seconds": 60.0,
    }  # fmt: skip
    oracle = "mean(length < 4, 2 * support.tiny_run:even) >= 0.5"
    folder = tmp_path / "run"
    dinado_jax.fit(base, oracle, PROMPTS, rollouts=32, settings=settings, folder=folder)
    recorded = json.loads((folder / "rollout" / "config.json").read_text())
    assert oracle in json.dumps(recorded)
    rows = Rollouts.load(folder / "rollout" / "rollouts.npz")
    spans = zip(rows.tokens, rows.prompt_length, rows.length)
    texts = base.codec.decode([row[start:end] for row, start, end in spans])
    assert rows.label.tolist() == [len(text) % 2 == 0 for text in texts]


@pytest.mark.parametrize("key", ["control.state", "decode.guarantee"])
def test_a_part_without_automata_is_named_where_they_are_needed(key):
    said = error_of(
        tiny_run.config, f"{key}=true", "rollout.oracle=keywords & !support.tiny_run:even"
    )
    assert f"{key} = true needs an oracle with automata" in said
    assert "of which support.tiny_run:even has none" in said
    assert "expected '!', '(' or a name" in error_of(
        tiny_run.config, f"{key}=true", "rollout.oracle=keywords & & keywords"
    )


def test_an_oracle_that_hangs_is_told_before_a_run_begins(tmp_path, monkeypatch):
    (tmp_path / "stuck.py").write_text(
        "def judge(prompts, texts):\n    while True:\n        pass\n"
    )
    monkeypatch.chdir(tmp_path)
    config = tiny_run.config("rollout.oracle=stuck.py:judge", "rollout.oracle_seconds=0.05")
    said = error_of(run_stages, config, ("sft", "rollout"), tmp_path / "run")
    assert "oracle judge, all 2 samples raised, the first TimeOver" in said
    assert "(stuck.py, line " in said


def test_it_is_identified_by_the_sources_of_its_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def digest(source, oracle):
        (tmp_path / "part_of_it.py").write_text(source)
        context = Context.of(tiny_run.config(f"rollout.oracle={oracle}"), tmp_path / "run")
        return input_digests("rollout", context)[f"rollout.oracle (the source of {oracle})"]

    one, other = (
        f"def judge(prompts, texts):\n    return [{label}] * len(texts)\n" for label in (0, 1)
    )
    whole = "keywords & !part_of_it.py:judge"
    assert digest(one, whole) == digest(one, whole) != digest(other, whole)
    assert digest(one, "keywords & length < 3") == digest(other, "keywords & length < 3")

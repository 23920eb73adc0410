"""Runs on pairs and on plain text of one's own, from files to summary."""

import csv
import json

import numpy as np
import pytest
from support import tiny_run, word_run
from support.refusal import error_of

import dinado_jax
from dinado_jax.cli import main
from dinado_jax.loading import load
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WORDS = np.array("dog cat fox cow ant bee sun sea".split())  # noqa: SIM905


def some(rng, most):
    return " ".join(rng.choice(WORDS, rng.integers(1, most)))


def samples_of(run, name="control"):
    return word_run.read_lines(run / "generate" / f"{name}.jsonl")


def figures(run, stage):
    return json.loads((run / stage / "done.json").read_text())["figures"]


@pytest.fixture(scope="module")
def pairs_run(tmp_path_factory):
    """Twenty questions with an answer or two, of which two answers are too long."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    rows = []
    for number in range(20):
        prompt = f"{WORDS[number % 8]}, {WORDS[number // 8]}?"
        rows += [(prompt, f"{some(rng, 4)} {mark}") for mark in "!."[: 1 + number % 2]]
    rows += [(rows[0][0], "dog " * 30), (rows[0][0], "cat " * 30)]
    with (folder / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])
    given = f"""
    task.name=pairs task.source={folder / "mine.csv"} task.field=question task.target_field=answer
    evaluate.prompts=2 rollout.references=true train.reference_weight=1
    """
    run_stages(tiny_run.config(*given.split()), STAGES, folder / "run")
    return folder, rows


def test_pairs_are_trained_on_as_they_are_written(pairs_run):
    folder, rows = pairs_run
    train = {prompt for number, (prompt, _) in enumerate(dict(rows).items()) if number % 10 < 8}
    kept = [row for row in rows if row[0] in train and len(row[1]) < 60]
    assert figures(folder / "run", "sft")["sft_rows"] == len(kept)
    rollouts = word_run.Rollouts.load(folder / "run" / "rollout" / "rollouts.npz")
    codec = load(folder / "run" / "sft" / "base").codec
    spans = zip(rollouts.tokens, rollouts.prompt_length)
    assert set(codec.decode([row[1:start] for row, start in spans])) <= train


def test_pairs_are_generated_for_and_compared_with_their_references(pairs_run):
    folder, rows = pairs_run
    asked = list(dict(rows))
    assert {sample["prompt"] for sample in samples_of(folder / "run")} == {asked[9], asked[19]}
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert 0 <= summary["base"]["bleu_4"] <= 100 and summary["control"]["bleu_4"] is not None


def test_examples_that_do_not_fit_are_counted(pairs_run, tmp_path, capsys):
    folder, _ = pairs_run
    given = f"task.name=pairs task.source={folder / 'mine.csv'} task.field=question"
    config = tiny_run.config(*given.split(), "task.target_field=answer", "task.held_out=0")
    run_stages(config, ("sft",), tmp_path / "run")
    assert "sft: 2 of 32 examples are longer than 16 tokens, left out" in capsys.readouterr().err


def test_an_oracle_of_keywords_is_refused_before_anything_is_drawn(pairs_run, tmp_path):
    folder, _ = pairs_run
    given = f"task.name=pairs task.source={folder / 'mine.csv'} task.field=question"
    config = tiny_run.config(*given.split(), "task.target_field=answer", "rollout.oracle=lexical")
    said = error_of(run_stages, config, ("sft", "rollout"), tmp_path / "run")
    assert "mine.csv, prompt 'dog, dog?', keyword task: write it as" in said


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """Forty paragraphs of two lines, most of them longer than sft.max_length."""
    folder, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    parts = [f"{some(rng, 8)}\n{some(rng, 8)}." for _ in range(40)]
    (folder / "mine.txt").write_text("\n\n".join(parts) + "\n")
    given = f"task.name=text task.source={folder / 'mine.txt'} task.document=paragraph"
    config = tiny_run.config(*given.split(), "sft.max_length=6", "evaluate.prompts=3")
    run_stages(config, STAGES, folder / "run")
    return folder, parts


def test_text_is_trained_on_in_windows(text_run):
    folder, parts = text_run
    codec = load(folder / "run" / "sft" / "base").codec
    train = [part for number, part in enumerate(parts) if number % 10 < 8]
    lengths = [len(ids) for ids in codec.targets(train)]
    assert codec.prompts([""]) == [[codec.eos_id]] and max(lengths) > 12
    # Each window has one token that is no target of its own.
    windows = sum(-(-length // 5) for length in lengths)
    assert figures(folder / "run", "sft")["sft_rows"] == windows


def test_text_goes_through_all_stages_with_empty_prompts(text_run):
    folder, _ = text_run
    rollouts = word_run.Rollouts.load(folder / "run" / "rollout" / "rollouts.npz")
    assert len(rollouts) == 32 and set(rollouts.prompt_length) == {1}
    assert len({tuple(row) for row in rollouts.tokens.tolist()}) > 8  # prompts draw on their own
    made = samples_of(folder / "run")
    assert len(made) == 12 and {sample["prompt"] for sample in made} == {""}
    assert "bleu_4" not in json.loads((folder / "run" / "summary.json").read_text())["base"]


def test_a_finished_run_continues_the_empty_prompt(text_run, capsys):
    folder, _ = text_run
    main(["generate", str(folder / "run"), "--prompt", "", "--json"])
    assert json.loads(capsys.readouterr().out)["prompt"] == ""
    model = dinado_jax.load_run(folder / "run")
    (best,) = dinado_jax.beam_search(model, [""], beams=2, max_new_tokens=4)
    (again,) = dinado_jax.score(model, [""], [best.text]) if best.finished else (best.log_probs,)
    np.testing.assert_allclose(again, best.log_probs, atol=1e-4)


def test_only_the_first_stage_needs_no_oracle(tmp_path):
    """A classifier with the tokens of the base can be trained only after it."""
    (tmp_path / "mine.tsv").write_text("prompt\ttarget\n" + "dog?\tcat.\nfox?\tcow.\n" * 9)
    given = ["task.name=pairs", f"task.source={tmp_path / 'mine.tsv'}", "rollout.oracle="]
    run_stages(tiny_run.config(*given), ("sft",), tmp_path / "run")
    said = error_of(run_stages, tiny_run.config(*given), STAGES[:2], tmp_path / "run")
    assert "rollout.oracle is empty, and task pairs has no oracle of its own" in said
    run_stages(tiny_run.config(*given[:2]), STAGES[:2], tmp_path / "run")
    assert figures(tmp_path / "run", "rollout")["samples"] > 0

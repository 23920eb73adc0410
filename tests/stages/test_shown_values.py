"""The values that the generate stage keeps for the report."""

import json

import numpy as np
import pytest
from support.html_page import Page

from dinado_jax.data.prompts import PromptSet
from dinado_jax.data.sequences import sequences
from dinado_jax.evaluation.samples import Sample, read_samples
from dinado_jax.evaluation.token_values import read_token_values
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.pipeline import load_run
from dinado_jax.stages.shown_values import shown_values

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = ["dog chase kite =", "cat find ball ="]
TEXTS = ["the dog .", "a cat finds", "two balls", "kite !"]


def of_texts(model, texts, label):
    """Rows of texts as the tokenizer splits them, two for each prompt, and the samples of them."""
    codec, which = model.base.codec, np.repeat(np.arange(2), 2)
    asked = [PROMPTS[i] for i in which]
    rows = sequences(codec.prompts(asked), codec.targets(texts), codec.eos_id, 24)
    none = np.zeros(4, np.float32)
    rollouts = Rollouts(
        rows.tokens, rows.prompt_length, rows.length, none + label, none, none,
        np.zeros(rows.tokens[:, 1:].shape, np.float32), which.astype(np.int32), none > 0,
        np.zeros(4, np.int32),
    )  # fmt: skip
    lengths = (rows.length - rows.prompt_length).tolist()
    samples = [
        Sample(int(i), PROMPTS[i], text, label, -1.0, -1.0, length, True, 0.5)
        for i, text, length in zip(which, texts, lengths)
    ]
    return rollouts, samples


@pytest.mark.parametrize("batch", [3, 64])
def test_they_are_r_after_each_token(finished_run, batch):
    model = load_run(finished_run)
    sides = {"base": (TEXTS, 0.0), "control": (TEXTS[::-1], 1.0)}
    made = {name: of_texts(model, *side) for name, side in sides.items()}
    rollouts, samples = ({name: pair[k] for name, pair in made.items()} for k in (0, 1))
    found = shown_values(model, PromptSet(PROMPTS), samples, rollouts, batch)
    assert {(each.model, each.sample) for each in found} == {
        (name, number) for name in sides for number in range(4)
    }
    for each in found:
        sample = samples[each.model][each.sample]
        own = model.values(sample.prompt, sample.text)
        assert each.pieces == tuple("" if "<|" in token else token for token in own.tokens)
        given = each.prompt_value, *each.values
        np.testing.assert_allclose(given, own.values, atol=1e-4)


def test_a_run_keeps_them_of_its_samples(finished_run):
    values = read_token_values(finished_run / "generate" / "values.jsonl")
    samples = {
        name: read_samples(finished_run / "generate" / f"{name}.jsonl")
        for name in ("base", "control")
    }
    assert values.keys() == {(name, i) for name, own in samples.items() for i in range(len(own))}
    for (name, number), each in values.items():
        sample = samples[name][number]
        # A character that was begun, and not ended, is no token's.
        assert "".join(each.pieces) == sample.text.rstrip("\ufffd")
        assert len(each.values) == len(each.pieces) == sample.tokens
        assert each.prompt_value == pytest.approx(sample.value, abs=1e-4)


def test_the_report_shows_them(finished_run):
    read = Page((finished_run / "report.html").read_text(encoding="utf-8"))
    titles = [each["title"] for each in read.of("u") if "title" in each]
    lines = (finished_run / "generate" / "values.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    texts = sum(bool(piece) for row in rows for piece in row["pieces"])
    assert len(titles) >= texts > 0

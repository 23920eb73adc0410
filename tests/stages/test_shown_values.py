"""The values that the generate stage keeps for the report."""

import json

import numpy as np
import pytest
from support.html_page import Page

from dinado_jax.evaluation.samples import read_samples
from dinado_jax.evaluation.token_values import read_token_values
from dinado_jax.stages.pipeline import load_run

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_they_are_r_after_each_token_of_the_samples(finished_run):
    values = read_token_values(finished_run / "generate" / "values.jsonl")
    model = load_run(finished_run)
    samples = {
        name: read_samples(finished_run / "generate" / f"{name}.jsonl")
        for name in ("base", "control")
    }
    assert values.keys() == {(name, i) for name, own in samples.items() for i in range(len(own))}
    compared = 0
    for (name, number), each in values.items():
        sample = samples[name][number]
        # A character that was begun, and not ended, is no token's.
        assert "".join(each.pieces) == sample.text.rstrip("\ufffd")
        assert len(each.values) == len(each.pieces) == sample.tokens
        assert each.prompt_value == pytest.approx(sample.value, abs=1e-4)
        found = model.values(sample.prompt, sample.text, finished=sample.finished)
        drawn = ["" if token == "<|endoftext|>" else token for token in found.tokens]
        # Where the tokenizer splits the text as it was drawn.
        if "\ufffd" not in sample.text and drawn == list(each.pieces):
            np.testing.assert_allclose(each.values, found.values[1:], atol=1e-4)
            compared += 1
        if compared == 6:
            break
    assert compared == 6


def test_the_report_shows_them(finished_run):
    read = Page((finished_run / "report.html").read_text(encoding="utf-8"))
    titles = [each["title"] for each in read.of("u") if "title" in each]
    lines = (finished_run / "generate" / "values.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    texts = sum(bool(piece) for row in rows for piece in row["pieces"])
    assert len(titles) >= texts > 0

"""Metrics of captions against coco-caption's own code: see tests/golden/make_captions.py."""

import json

import numpy as np
import pytest
import support

from dinado_jax.metrics.bleu import coco_bleu
from dinado_jax.metrics.cider import cider, cider_d
from dinado_jax.metrics.diversity import self_bleu
from dinado_jax.metrics.protocol import Item, items_of
from dinado_jax.metrics.rouge import rouge_l
from dinado_jax.metrics.treebank import treebank_tokens

GOLDEN = json.loads((support.TESTS / "golden" / "captions.json").read_text(encoding="utf-8"))
SETS = GOLDEN["sets"]
MEASURES = {
    **{f"coco_bleu_{n}": coco_bleu(n) for n in range(1, 5)},
    "rouge_l": rouge_l,
    "cider_d": cider_d,
    "cider": cider,
}


@pytest.fixture(scope="module")
def items():
    return [Item("", (each["text"],), tuple(each["references"])) for each in SETS]


@pytest.mark.parametrize("line, tokens", GOLDEN["tokens"])
def test_tokens(line, tokens):
    assert list(treebank_tokens(line)) == tokens.split()


@pytest.mark.parametrize("name", GOLDEN["names"])
def test_scores(items, name):
    measured = MEASURES[name](items)
    column = GOLDEN["names"].index(name)
    wanted = [each["scores"][column] for each in SETS]
    np.testing.assert_allclose(measured.per_prompt, wanted, atol=1e-7)
    assert measured.value == pytest.approx(GOLDEN["corpus"][name], abs=1e-9)


def test_several_texts_of_a_prompt_are_averaged_and_its_references_count_once(items):
    twice = [Item("", each.texts * 2, each.references) for each in items[:40]]
    for name, measure in MEASURES.items():
        once = measure(items[:40])
        if "bleu" not in name:  # its 1e-15 for no match is not doubled
            np.testing.assert_allclose(measure(twice).per_prompt, once.per_prompt, atol=1e-7)
        assert measure(twice).value == pytest.approx(once.value, abs=1e-7), name


def test_texts_are_collected_by_prompt():
    prompts, texts = ["a =", "b =", "a =", "", ""], ["1", "2", "3", "4", "5"]
    references = [["x"], ["x"], ["x"], ["x"], ["x"]]
    items = items_of(prompts, texts, references)
    assert [item.texts for item in items] == [("1", "3"), ("2",), ("4",), ("5",)]
    assert len(items_of(["a =", "a ="], ["1", "2"], [["x"], ["y"]])) == 2


def test_self_bleu():
    given = GOLDEN["self_bleu"]
    np.testing.assert_allclose(self_bleu(given["tokens"]), given["scores"], atol=1e-12)
    assert np.isnan(self_bleu([["a", "dog"]])).all()

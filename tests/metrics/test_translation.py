"""BLEU and chrF of translations against sacrebleu's own corpus scores."""

import sys

import numpy as np
import pytest
from sacrebleu import corpus_bleu, corpus_chrf
from support.refusal import error_of

from dinado_jax.metrics.protocol import Item
from dinado_jax.metrics.translation import chrf, sacrebleu_bleu

WORDS = ["the", "dog", "runs", "home", "and", "a", "Cat", "sleeps", "near", "my", "house", "."]


@pytest.fixture(scope="module")
def items():
    rng = np.random.default_rng(0)

    def text():
        return " ".join(rng.choice(WORDS, rng.integers(3, 12)))

    return [
        Item("", tuple(text() for _ in range(2)), tuple(text() for _ in range(rng.integers(1, 4))))
        for _ in range(30)
    ]


@pytest.mark.parametrize("measure, of_corpus", [(sacrebleu_bleu, corpus_bleu), (chrf, corpus_chrf)])
def test_scores_are_those_of_sacrebleu(items, measure, of_corpus):
    texts = [text for item in items for text in item.texts]
    streams = [
        [item.references[k] if k < len(item.references) else None for item in items for _ in "ab"]
        for k in range(3)
    ]
    measured = measure(items)
    assert measured.value == pytest.approx(of_corpus(texts, streams).score, abs=1e-9)
    first = of_corpus(list(items[0].texts), [[each] * 2 for each in items[0].references])
    assert measured.per_prompt[0] == pytest.approx(first.score, abs=1e-9)
    assert "nrefs:var" in measured.signature and "version:" in measured.signature


def test_sacrebleu_is_optional(items, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for measure in (sacrebleu_bleu, chrf):
        assert "[eval]" in error_of(measure, items)

"""BLEU against values worked out by hand."""

import sys

import pytest

from dinado_jax.errors import InputError
from dinado_jax.tasks.bleu import bleu4


def test_bleu_with_ragged_references():
    hypotheses = ["A dog runs in the park .", "Two cats sit on the old mat ."]
    references = [
        ("the dog sleeps", "a dog runs in the park ."),
        ("two cats sit on the old mat .",),
    ]
    assert bleu4(hypotheses, references) == pytest.approx(100)
    unlike = [("the dog sleeps", "a dog runs in the garden ."), references[1]]
    assert 50 < bleu4(hypotheses, unlike) < 100


def test_bleu_by_hand():
    # precisions 5/6, 4/5, 3/4, 2/3; equal lengths, no brevity penalty
    score = bleu4(["a b c d e f"], [("a b c d e x",)])
    assert score == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)


def test_bleu_needs_references_and_its_package(monkeypatch):
    for hypotheses, references in ((["a"], [()]), (["a"], []), ([], [])):
        with pytest.raises(InputError):
            bleu4(hypotheses, references)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(InputError, match=r"\[eval\]"):
        bleu4(["a"], [("a",)])

"""M-Acc: what counts as formal, informal, or not at all, by hand."""

import math

import pytest

from dinado_jax.metrics.matched_accuracy import Matched, Phrases, matched_accuracy

SURE = Phrases(("Sind Sie",), ("Bist du", "dir"))
TWO = Phrases(("Ihre", "Können Sie"), ("deine", "Kannst du"))
CASES = [  # text, phrases, whether it is formal; None: it does not count
    ("Sind Sie sicher?", SURE, True),
    ("Bist du sicher?", SURE, False),
    ("Bist du dir sicher?", SURE, False),
    ("Sind Sie dir sicher?", SURE, None),
    ("Sicher?", SURE, None),
    ("Sie sind sicher, Sind sie es?", SURE, True),  # each word of a phrase, wherever it is
    ("Sind sie sicher?", SURE, None),  # case counts
    ("Sind Sie? Bist Du?", SURE, None),  # and so does what is not set off by white space
    ("Sind, Sie sicher?", SURE, None),
    ("Können Sie mir helfen?", TWO, True),
    ("Ihre Karte", TWO, True),
    ("Ihre Karte, deine Karte", TWO, None),
    ("Kannst du mir Ihre Karte geben?", TWO, None),
    ("Kannst mir helfen, du?", TWO, None),  # "du?" is another word
    ("Du kannst deine Karte haben", TWO, False),
    ("", TWO, None),
    ("Ihre", Phrases((), ()), None),
    ("Ihre", Phrases((" ", ""), ("deine",)), None),
    ("a  b", Phrases(("b a",), ("c",)), True),
]


@pytest.mark.parametrize(("text", "phrases", "formal"), CASES)
def test_a_text(text, phrases, formal):
    found = matched_accuracy([text], [phrases])
    if formal is None:
        assert math.isnan(found.accuracy) and found.counted == 0
    else:
        assert found == Matched(float(formal), 1.0)


def test_many_texts():
    texts, phrases, formal = zip(*CASES)
    counted = [each for each in formal if each is not None]
    found = matched_accuracy(texts, phrases)
    assert found.accuracy == pytest.approx(sum(counted) / len(counted))
    assert found.counted == pytest.approx(len(counted) / len(CASES))

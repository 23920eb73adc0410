"""Diversity against counts made by hand; Self-BLEU is in test_captions.py."""

from dinado_jax.metrics.diversity import distinct, repetition

TEXTS = [["a", "b", "a", "b", "a", "b"], ["a", "b", "c"], ["d"], []]


def test_distinct():
    assert distinct(TEXTS, 1) == 4 / 10
    assert distinct(TEXTS, 2) == 3 / 7  # ab ba bc
    assert distinct(TEXTS[2:], 2) == 0.0


def test_repetition():
    assert [repetition(text, 2) for text in TEXTS] == [1 - 2 / 5, 0.0, 0.0, 0.0]
    assert repetition(TEXTS[0], 4) == 1 - 2 / 3

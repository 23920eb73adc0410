"""The lexical oracle: which texts hold the keywords of a prompt."""

import pytest
from support.refusal import error_of

from dinado_jax.tasks.keyword.lexical import coverage, lexical, present, words


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Two DOGS, running.", ["two", "dogs", "running"]),
        ("the dog's ball", ["the", "dog", "s", "ball"]),
        ("hot-dogs_at 7pm", ["hot", "dogs", "at", "7pm"]),
        ("he won't, she don\u2019t", ["he", "won't", "she", "don't"]),
        ("Ünïcode café", ["ünïcode", "café"]),
        (" .", []),
    ],
)
def test_words(text, tokens):
    assert words(text) == tokens


@pytest.mark.parametrize(
    ("concept", "text", "expected"),
    [
        ("cat", "A category of its own.", False),
        ("cat", "Cats!", True),
        ("cat", "a cat-like robot", True),
        ("dog", "the dog's bowl", True),
        ("dog", "the dog\u2019s bowl", True),
        ("win", "She won.", True),
        ("win", "She won't.", False),
        ("hot-dog", "he eats a hot-dog", True),
        ("hot-dog", "he eats a hot dog", True),
        ("hot-dog", "a dog is hot", False),
        ("t-shirt", "a red T-shirt", True),
        ("t-shirt", "a red shirt", False),
        ("t-shirt", "two red T-shirts", True),
        ("selfie", "they take selfies", True),
        ("Dog", "a dog", True),
        ("dog", "", False),
    ],
)
def test_present(concept, text, expected):
    assert present([concept], text) == [expected]


@pytest.mark.parametrize(
    ("concept", "text"),
    [
        ("dog", "the dog\u02bcs bowl"),
        ("dog", "the dog`s bowl"),
        ("dog", "the dog\u00b4s bowl"),
        ("dog", "the dog\uff07s bowl"),
        ("dog", "the dog 's bowl"),
        ("dog", "the \uff44\uff4f\uff47 barks"),
        ("dog", "a d\u00ado\u00adg"),
        ("dog", "a do\u200bg, a \ufeffcat"),
        ("dog", "\ufeffdog"),
        ("do\u200dg\ufeff", "two dogs"),
        ("dog", "the Dog\u2122 barks"),
        ("dog", "a dog\u00b2 barks"),
        ("dog", "dog\u2014cat"),
        ("dog", "dog\u2026"),
        ("fish", "two \ufb01shes"),
        ("\ufb02y", "it flies"),
        ("cafe", "a caf\u00e9"),
        ("caf\u00e9", "two cafes"),
        ("caf\u00e9", "two cafe\u0301s"),
        ("cafe\u0301", "two CAF\u00c9S"),
        ("encyclopaedia", "two encyclop\u00e6dias"),
        ("stra\u00dfe", "die STRASSE"),
        ("strasse", "die Stra\u00dfe"),
        ("istanbul", "\u0130stanbul"),
        ("\u0130zmir", "in izmir"),
        ("fish", "F\u0130SH"),
        ("hot-dog", "a hot\u2011dog"),
        ("hot\u2011dog", "a hot-dog"),
        ("hot\u2010dog", "two hot dogs"),
        ("hot\u2013dog", "two hot\u2212dogs"),
        ("hot-dog", "a hotdog"),
        ("hotdog", "two hot-dogs"),
        ("hotdog", "two hot\u2011dogs"),
        ("mother-in-law", "his mother\u2010in\u2010law's house"),
        ("mother-in-law", "two mothers in law"),
        ("o'clock", "at five o\u2019clock"),
        ("o\u2019clock", "at five o'clock"),
        ("don't", "I don\u2019t"),
        ("don\u2019t", "I do n't"),
        ("won't", "I won 't"),
        ("\uff24og", "a dog"),
    ],
)
def test_both_sides_are_compared_in_one_spelling(concept, text):
    assert present([concept], text) == [True]


NEGATIONS = ["won{}t", "wo n{}t", "won {}t", "won {} t", "WON{}T"]


@pytest.mark.parametrize("mark", "'\u2018\u2019\u02bc`\u00b4\uff07\u2032\u201b")
def test_negations_hold_no_other_word(mark):
    for negation in NEGATIONS:
        text = f"She {negation.format(mark)} go."
        assert words(text) == ["she", "won't", "go"], text
        assert present(["win", "won't", "go"], text) == [False, True, True]
    assert (
        present(["can", "do", "be"], f"I can {mark}t, we do n{mark}t, it isn {mark}t")
        == [False] * 3
    )


@pytest.mark.parametrize(
    ("concept", "text"),
    [
        ("notable", "He is not able, at no table."),  # joined only over a hyphen
        ("carpet", "a car pet"),
        ("hotdog", "a hot dog"),
        ("dog", "a \u00addogma"),
        ("man", "a wo\u00adman"),
        ("cat", "a cat\u200begory"),
        ("hotdog", "hot\u2014dog"),
    ],
)
def test_what_no_spelling_makes_a_form(concept, text):
    assert present([concept], text) == [False]


def test_a_word_without_end_is_judged_at_once():
    """As of a model that repeats itself; in time linear in its length, else this takes hours."""
    assert lexical(["dog ="] * 2, ["a" * 300_000, "a-" * 100_000 + "dog"]) == [False, True]


def test_coverage_and_the_oracle():
    prompt = "dog chase ball ="
    assert coverage(prompt, "Two dogs chased the cat.") == pytest.approx(2 / 3)
    texts = ["Dogs are chasing balls.", "Dogs are chasing cats.", "Balls chase a dog"]
    assert lexical([prompt] * 3, texts) == [True, False, True]
    assert lexical([], []) == []
    error_of(lexical, ["dog chase"], ["a dog"])

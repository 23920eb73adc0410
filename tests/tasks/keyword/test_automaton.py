"""Automata of concepts against the oracle: what they accept, it accepts."""

import itertools
import random

import pytest

from dinado_jax.tasks import toy
from dinado_jax.tasks.keyword.automaton import concept_automaton, words_automaton
from dinado_jax.tasks.keyword.lexical import NEGATED, forms, patterns, present
from dinado_jax.tasks.keyword.symbols import UNKNOWN, symbols_of

CONCEPTS = [
    *("dog", "win", "could", "have", "need", "do", "n", "t", "won", "haven", "fan", "person"),
    *("hot-dog", "hotdog", "t-shirt", "x-ray", "do-nothing", "must-have", "can't", "café"),
    *("straße", "3d", "dress-up"),
]
PIECES = [
    *" '-.,!\n\t_\u2019\u2010\u2011\u2013\u00ad\u200b\u0301\u0308\u0327\u0345\u0307é\u0131\u0130",
    *"\u017f\ufb01²½ª©\u0149\u0591\U0001f642\uff07\u02bc`\ufffd\u0434\u304c\u1161\uac01µ\u00a0",
    *[" "] * 25, *["'"] * 6, *["-"] * 8, "n't", " n't", "n 't", " n ' t", "'t", "t", "n", "x", "s",
]  # fmt: skip


def random_text(rng: random.Random, concept: str) -> str:
    """Forms of the concept, some damaged, verbs that are negated, and pieces between them."""
    words = sorted(set(patterns(concept)) | forms(concept))
    parts = []
    for _ in range(rng.randint(1, 7)):
        kind, word = rng.random(), rng.choice(words).strip()
        if kind < 0.2:
            parts.append(rng.choice([word, word.upper(), word.capitalize()]))
        elif kind < 0.35:
            at = rng.randint(0, len(word))
            parts.append(word[:at] + rng.choice(PIECES) + word[at:])
        else:
            parts.append(rng.choice(NEGATED if kind < 0.42 else PIECES))
    return "".join(parts)


def test_random_texts():
    rng = random.Random(0)
    counts = {(False, False): 0, (True, False): 0, (True, True): 0}
    for _ in range(10_000):
        concept = rng.choice(CONCEPTS)
        text = random_text(rng, concept)
        by_oracle = present([concept], text)[0]
        by_automaton = concept_automaton(concept).satisfied_by(text)
        assert by_oracle or not by_automaton, (concept, text)
        counts[by_oracle, by_automaton] += 1
    assert counts[True, True] > 2000 and counts[True, False] < counts[True, True] / 5


@pytest.mark.parametrize(
    ("concept", "letters", "length"),
    [("do", "don't -", 5), ("won", "wont' ", 6), ("t-x", "tnx'- ", 5), ("ab", "ab-.\u0301", 6)],
)
def test_all_texts_of_one_length(concept, letters, length):
    """Over these alphabets: nearly all are judged alike, none is found by the automaton alone."""
    automaton, different = concept_automaton(concept), []
    for text in map("".join, itertools.product(letters, repeat=length)):
        if automaton.satisfied_by(text) != present([concept], text)[0]:
            assert not automaton.satisfied_by(text), text
            different.append(text)
    assert len(different) < len(letters) ** length / 10


def test_captions():
    """Plain text is judged alike."""
    examples = toy.examples("dev", 300, 0)
    concepts = sorted({word for example in examples for word in example.prompt.split()[:-1]})
    found = 0
    for concept in [*concepts, "need", "have", "t-shirt"]:
        automaton = concept_automaton(concept)
        for example in examples[:60]:
            text = example.references[0]
            assert automaton.satisfied_by(text) == present([concept], text)[0], (concept, text)
            found += automaton.satisfied_by(text)
    assert found > 100


@pytest.mark.parametrize(
    ("concept", "text"),
    [
        ("dog", "a DOG."), ("dog", "dogs"), ("dog", "the dog's"), ("dog", "do\u0301g"),
        ("dog", "\uff24\uff2f\uff27"), ("dog", "d\u00ado\u200bg"), ("dog", "x-dog"),
        ("hot-dog", "hot dogs"), ("hot-dog", "a hotdog"), ("hotdog", "hot-dog"),
        ("hot-dog", "a hot, dog"), ("need", "need n"), ("need", "I need never"),
        ("do-nothing", "do nothing"), ("can't", "I can\u2019t"), ("t-shirt", "a 't-shirt'"),
        ("fan", "a fan 'tis"), ("café", "cafe"), ("cafe", "CAFÉ"), ("dog", "dog \ud83d"),
    ],
)  # fmt: skip
def test_found(concept, text):
    assert concept_automaton(concept).satisfied_by(text) and present([concept], text)[0]


@pytest.mark.parametrize(
    ("concept", "text"),
    [
        ("win", "won't"), ("win", "wo n't"), ("need", "need n't"), ("could", "could n ' t"),
        ("dog", "doghouse"), ("hotdog", "hot dog"), ("hotdog", "x-hot-dog"), ("dog", "do g"),
        ("leave", "leaver"), ("t-shirt", "don't shirt"), ("dog", ""), ("dog", "do-g-s-x"),
    ],
)  # fmt: skip
def test_not_found(concept, text):
    assert not concept_automaton(concept).satisfied_by(text) and not present([concept], text)[0]


@pytest.mark.parametrize(
    ("concept", "text"),
    [
        ("dog", "dog" + UNKNOWN), ("dog", "dog\u0591"), ("dog", " \u0301dog"),
        ("hot-dog", "ho-t do-g"), ("can't", "ca n't"), ("could", "could n't-x"), ("win", "won'ts"),
        ("could", "_could n't"), ("hotwon", "hot-won't"), ("t-shirt", "a man 't shirt'"),
        ("hotdog", "- -hot-dog"),
    ],
)  # fmt: skip
def test_found_by_the_oracle_alone(concept, text):
    """One of each kind that the docstring of the module lists."""
    assert present([concept], text)[0] and not concept_automaton(concept).satisfied_by(text)


def test_alternatives_of_several_words():
    """All sequences of some words, in any case and with any signs between them."""
    wanted = {("in", "the", "park"), ("the", "the"), ("out",)}
    automaton = words_automaton(frozenset(wanted))
    for number, words in enumerate(itertools.product(["In", "the", "park", "out", "a"], repeat=4)):
        spaced = f" {' '.join(words).lower()} "
        text = (" ", ", ", "-", ".\n")[number % 4].join(words)
        found = any(f" {' '.join(each)} " in spaced for each in wanted)
        assert automaton.satisfied_by(text) == found


def test_symbols():
    assert symbols_of("Caf\u00e9\u2019s \u00c6ON\ufb01\u2014\n\u00bd") == "cafe's aeonfi..1.2"
    assert symbols_of("e\u0301\u00ad\u2011_\u00a9\u0345\u0591\u0149") == "e\u0300-. " + UNKNOWN * 3

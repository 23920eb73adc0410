"""Constraints on words against definitions by the oracle's own splitting of texts."""

import itertools
import random
import re

import pytest
from support.folders import refused

from dinado_jax.constraints.counting import at_least_words, at_most_words
from dinado_jax.constraints.words import any_of_words, contains, in_order, without
from dinado_jax.oracles.sentences import at_most_12_words
from dinado_jax.tasks.keyword.lexical import plain, present, without_accents, words

PIECES = [
    "dog", "Dogs", "DOG", "cat", "caf\u00e9", "hot-dog", "hotdog", "hot dog", "won't", "isn\u2019t",
    "n't", "t", "n", "I'm", "dog's", "3rd", "x", "a", "d\u00f6g", "do\u0301g", "DO\uff27",
    *[" "] * 22, *",.!?-'\"\n\t_\u2019\u2014\u00a0\U0001f642\u200b\u00ad\u0301", "--",
]  # fmt: skip


def random_texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 20))) for _ in range(count)]


def found(phrase: str, text: str) -> bool:
    """Whether a text has the words in sequence, or joined as it writes them with hyphens."""
    folded = without_accents(plain(text))
    joined = re.findall(r"[^\W_]+(?:-[^\W_]+)+", folded.replace("\u2010", "-"))
    joined = " ".join(each.replace("-", "") for each in joined)
    wanted = f" {' '.join(words(without_accents(plain(phrase))))} "
    return any(wanted in f" {' '.join(words(each))} " for each in (folded, joined))


@pytest.mark.parametrize("phrase", ["dog", "hot dog", "hotdog", "Caf\u00e9", "won't", "3rd", "x"])
def test_contains(phrase):
    """The automaton is right wherever it says yes, and nearly always where it says no."""
    texts = random_texts(1500)
    verdicts = contains(phrase)([""] * len(texts), texts)
    expected = [found(phrase, text) for text in texts]
    assert not [text for text, one, other in zip(texts, verdicts, expected) if one and not other]
    missed = [text for text, one, other in zip(texts, verdicts, expected) if other and not one]
    assert sum(verdicts) > 40 and len(missed) < sum(verdicts) / 10
    assert without(phrase)([""] * len(texts), texts) == [not one for one in verdicts]


def test_inflections_are_those_of_the_lexical_oracle():
    texts = random_texts(2000, seed=1)
    verdicts = contains("dog", "cat", inflected=True)([""] * len(texts), texts)
    assert sum(verdicts) > 60
    for text, verdict in zip(texts, verdicts):
        assert not verdict or all(present(["dog", "cat"], text)), text
    assert contains("dog")([""], ["dogs"]) == [False]


def test_several_words():
    texts = random_texts(1500, seed=2)
    many = [""] * len(texts)
    dog, cat = contains("dog")(many, texts), contains("cat")(many, texts)
    both = [one and other for one, other in zip(dog, cat)]
    assert contains("dog", "cat")(many, texts) == both
    either = [one or other for one, other in zip(dog, cat)]
    assert any_of_words("dog", "cat")(many, texts) == either
    assert without("cat", "dog")(many, texts) == [not one for one in either]


def test_in_order():
    """Plain words between spaces and punctuation, in all sequences."""
    constraint = in_order("dog", "the cat", "dog")
    for parts in itertools.product(["dog", "The cat", "the", "cats", "a-b"], repeat=5):
        for between in (" ", ", ", "-", ".\n"):
            text = between.join(parts)
            split = f" {' '.join(words(text))} "
            first = split.find(" dog ")
            second = split.find(" the cat ", first + 4) if first >= 0 else -1
            third = split.find(" dog ", second + 8) if second >= 0 else -1
            assert constraint([""], [text])[0] == (third >= 0), text
    assert in_order("need", "never")([""], ["you need never"]) == [True]
    negated = ["could n't x", "could n't, could x", "could n't x, could"]
    assert in_order("could", "x")([""] * 3, negated) == [False, True, False]
    assert in_order("could", "d")([""] * 2, ["could n't, could", "could d"]) == [False, True]


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_numbers_of_words(count):
    texts = random_texts(1500, seed=3)
    least = at_least_words(count)([""] * len(texts), texts)
    most = at_most_words(count)([""] * len(texts), texts)
    assert min(sum(least), sum(most)) > 50
    for text, enough, few in zip(texts, least, most):
        assert (enough, few) == (len(words(text)) >= count, len(words(text)) <= count), text


def test_all_short_texts_are_counted_as_the_oracle_does():
    verdicts = {n: (at_least_words(n), at_most_words(n)) for n in (1, 2, 3)}
    for text in map("".join, itertools.product("xnt' ", repeat=6)):
        count = len(words(text))
        for n, (least, most) in verdicts.items():
            assert least([""], [text])[0] == (count >= n), text
            assert most([""], [text])[0] == (count <= n), text


def test_counts_agree_with_the_oracle_of_12_words():
    texts = [" ".join(random_texts(3, seed=seed)) for seed in range(300)]
    verdicts = at_most_words(12)([""] * len(texts), texts)
    assert verdicts == at_most_12_words([""] * len(texts), texts) and 50 < sum(verdicts) < 250
    assert at_most_words(2)([""], ["ca n't"]) == [False]  # the difference


@pytest.mark.parametrize("text", ["", " ", "dog", "a dog", "Dogs isn't"])
def test_white_space_around_a_text_does_not_count(text):
    for constraint in (contains("dog"), without("dog"), at_most_words(1), in_order("a", "dog")):
        assert len(set(constraint([""] * 3, [text, f" {text}", f"\n{text} \t"]))) == 1


def test_what_is_refused():
    refused(r"contains\(\), no words", contains)
    refused(r"without\('dog', '!'\), '!': give a word", without, "dog", "!")
    refused(r"at_least_words\(0\)", at_least_words, 0)
    refused(r"at_most_words\(-1\)", at_most_words, -1)
    refused(r"at_least_words\(9999\), it needs more than 4,096 states", at_least_words, 9999)

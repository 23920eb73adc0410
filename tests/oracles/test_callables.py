"""Which form a callable has, and what is no oracle."""

import functools
import re

import numpy as np
import pytest
from support.refusal import error_of

from dinado_jax.constraints import contains
from dinado_jax.oracles.callables import given_oracle
from dinado_jax.tasks.keyword.oracle import LEXICAL

PROMPTS = ["red =", "blue ="]
TEXTS = ["a red hat", "a blue hat"]


def labels(function, prompts=PROMPTS):
    return list(given_oracle(function, prompts).function(PROMPTS, TEXTS))


class Judge:
    word = "red"

    def of_text(self, text):
        return self.word in text

    def of_pair(self, prompt, text):
        return prompt.split()[0] in text

    @classmethod
    def of_lists(cls, prompts, texts):
        return np.array([cls.word in text for text in texts])

    def __call__(self, text, /, *, strictly=False):
        return self.word in text


@pytest.mark.parametrize(
    "function",
    [
        lambda text: "red" in text.split(),
        lambda text, limit=1: text.count("red") == limit,
        lambda *texts: "red" in texts[0],
        lambda text: np.float32("red" in text),
        lambda text: np.array("red" in text),
        lambda prompt, text: "red" in text.split(),
        lambda prompt, text, limit=1: text.count("red") == limit,
        lambda prompts, texts: ["red" in text for text in texts],
        lambda prompts, texts: tuple("red" in text for text in texts),
        functools.partial(lambda word, text: word in text, "red"),
        functools.cache(lambda text: "red" in text),
        Judge(),
        Judge().of_text,
        Judge.of_lists,
        contains("red"),
    ],
)
def test_every_form_answers_lists(function):
    assert labels(function) == [True, False]


def test_pairs_get_their_own_prompts():
    assert labels(Judge().of_pair) == [True, True]
    assert labels(LEXICAL) == [True, True]
    assert labels(lambda prompt, text: text.startswith(prompt[0])) == [False, False]


def test_it_is_tried_on_two_texts_at_once_before_all_else():
    calls = []

    def oracle(prompts, texts):
        calls.append((prompts, texts))
        return [0.5] * len(texts)

    named = given_oracle(oracle, ["p", "q", "r"])
    assert named.function is oracle and not named.built_in
    prompts, texts = calls[0]
    assert prompts == ["p", "r"] and len(texts) == 2 and all(texts)
    assert named.name.startswith("callable ") and named.name.endswith("oracle")


def test_one_that_raises_for_some_texts_is_one():
    oracle = given_oracle(lambda text: bool(text.index("few")), PROMPTS).function
    with pytest.raises(ValueError):
        oracle(PROMPTS, TEXTS)


def test_automata_stay_with_their_oracle():
    word = contains("red")
    assert given_oracle(word, PROMPTS).automata_of == word.automata
    assert given_oracle(lambda text: True, PROMPTS).automata_of is None


def nothing(text):
    "red" in text  # noqa: B015


def broken(prompts, texts):
    return [{}[prompt] for prompt in prompts]


FAULTS = [
    (3, "oracle is 3, not a function: write it as function(text), function(prompt, text) or"),
    (lambda: True, "takes neither a text nor a prompt and a text: write it as function(text)"),
    (lambda a, b, c: True, "<lambda>(a, b, c) takes neither"),
    (lambda text, *, limit: True, "takes neither"),
    (nothing, "oracle nothing, returned None (NoneType) for 2 texts: write it as function(tex"),
    (lambda prompt, text: None, "returned None (NoneType) for 2 texts"),
    (lambda text: "yes", "returned 'yes' (str) for 2 texts"),
    (lambda text: float("nan"), "returned nan for 2 texts"),
    (lambda text: 50, "returned 50.0 for 2 texts"),
    (lambda text: [True], "returned an array of shape (2, 1) for 2 texts"),
    (lambda prompts, texts: [True], "returned 1 value for 2 texts"),
    (lambda prompts, texts: [2.0, 0.0], "returned 2.0 for 2 texts"),
    (broken, "raised KeyError: 'red =' for lists of prompts and texts, and KeyError: 'r' for a"),
]


@pytest.mark.parametrize("function, fault", FAULTS)
def test_what_is_no_oracle(function, fault):
    said = error_of(given_oracle, function, PROMPTS)
    said = re.sub(r" \(test_callables\.py, line \d+\)", "", said)
    assert fault in said and "return one bool or float in [0, 1] per text" in said


def test_a_class_is_no_oracle_but_its_objects_are():
    said = "oracle Judge is a class: give an object of it, such as judge = Judge()"
    assert error_of(given_oracle, Judge, PROMPTS) == said


def test_what_always_raises():
    said = error_of(given_oracle, lambda text: 1 / 0, PROMPTS)
    assert "all 2 samples raised, the first ZeroDivisionError: division by zero (test_" in said

"""The digest of a callable: what changes it, and what does not."""

import dataclasses
import functools
import re
import subprocess
import sys

import numpy as np
import pytest
import support

from dinado_jax.constraints import at_most_words, contains
from dinado_jax.oracles.code_digest import code_digest

PROGRAM = """
import functools, re
WORDS = {WORDS}
def helper(text):
    return other(text) if len(text) > 100 else any(word in text for word in WORDS)
def other(text):
    return helper(text[1:])
def oracle(text):
    {BODY}
"""
VALUES = {"WORDS": "['red', 'blue']", "BODY": "return helper(text)"}


def made(**changes):
    """The function `oracle` of the program, with parts of it changed."""
    names = {"__name__": "program"}
    exec(PROGRAM.format(**VALUES | changes), names)
    return names["oracle"]


def test_equal_code_has_an_equal_digest_wherever_it_stands():
    here = code_digest(made())
    assert here == code_digest(made(BODY="# a comment\n    return helper(text)"))
    program = (
        f"from oracles.test_code_digest import made, code_digest\n"
        f"print(code_digest(made()), code_digest(made(BODY={SETS!r})))"
    )
    for seed in "12":  # of the order of sets
        run = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{support.ROOT}:{support.ROOT}/tests"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.split() == [here, code_digest(made(BODY=SETS))]


SETS = "return bool({'red', 'blue', 'green'} & set(text.split()))"
OTHERS = [
    {"BODY": "return not helper(text)"},
    {"BODY": "return 'red' in text"},
    {"BODY": "return 'blue' in text"},
    {"BODY": SETS},
    {"BODY": SETS.replace("green", "pink")},
    {"BODY": "return bool(re.match('a', text))"},
    {"BODY": "return bool(re.search('a', text))"},
    {"BODY": "return any(word == 'a' for word in text.split())"},
    {"BODY": "return any(word == 'b' for word in text.split())"},
    {"WORDS": "['red', 'green']"},
    {"WORDS": "['blue', 'red']"},
    {"WORDS": "('red', 'blue')"},
    {"WORDS": "{'red': 1, 'blue': 2}"},
    {"WORDS": "{'red': 1, 'blue': 3}"},
]


def test_other_code_and_other_values_have_another():
    digests = [code_digest(made(**changes)) for changes in [{}, *OTHERS]]
    assert len(set(digests)) == len(digests)


@dataclasses.dataclass(frozen=True)
class Has:
    word: str

    def __call__(self, text):
        return self.word in text


class Longer:
    def __init__(self, than):
        self.than, self.seen = than, {}

    def __call__(self, text):
        return len(text) > self.than

    def shorter(self, text):
        return len(text) < self.than


def closure(value):
    return lambda text: text == value


def default(value):
    return lambda text, value=value: text == value


@pytest.mark.parametrize("values", [("a", "b"), (1, 1.0), ([1], [2]), (np.zeros(2), np.ones(2))])
@pytest.mark.parametrize("make", [closure, default, lambda value: functools.partial(max, value)])
def test_values_that_a_function_holds(make, values):
    one, other = values
    assert code_digest(make(one)) == code_digest(make(one)) != code_digest(make(other))


def test_callables_of_other_kinds():
    patterns = [closure(re.compile("a")), closure(re.compile("a", re.IGNORECASE))]
    distinct = [
        *patterns,
        *(Has("a"), Has("b"), Has("a").__call__),
        *(Longer(1), Longer(1).shorter),
        *(functools.cache(closure("a")), functools.cache(closure("b"))),
        *(contains("red"), contains("blue"), contains("red") & at_most_words(3)),
        *(len, str.isupper, str.islower, Has, Longer),
    ]
    digests = [code_digest(each) for each in distinct]
    assert len(set(digests)) == len(digests)
    assert code_digest(contains("red")) == code_digest(contains("red"))


def test_what_objects_hold_is_not_seen():
    """They may change when they are called: a cache, a count of calls."""
    assert code_digest(Longer(1)) == code_digest(Longer(2))
    assert code_digest(Longer(1).shorter) == code_digest(Longer(2).shorter)
    word = contains("red")
    before = code_digest(word)
    word([""], ["The thé is red."])
    assert code_digest(word) == before
    counted = functools.cache(closure("a"))
    before = code_digest(counted)
    counted("b")
    assert code_digest(counted) == before


def test_globals_of_partial_functions():
    one, other = (functools.partial(made(WORDS=words), text="") for words in ("['a']", "['b']"))
    assert code_digest(one) != code_digest(other)


def test_values_that_hold_themselves():
    words = ["a"]
    words.append(words)
    assert code_digest(closure(words)) != code_digest(closure(["a"]))

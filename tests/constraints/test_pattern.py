"""Verdicts of patterns are those of re.fullmatch, on all characters and on random expressions."""

import itertools
import random
import re
import sys

import pytest
from support.folders import refused

from dinado_jax.constraints.pattern import pattern
from dinado_jax.errors import quote

UNKNOWN = "\ufffd"
EVERY_CHARACTER = [chr(code) for code in range(sys.maxunicode + 1) if chr(code) != UNKNOWN]
ODD = [
    *"aAbBkK1_.!?@#-' \n\t\r\x1c\x85\xa0\u2028\u3000\u00e9\u00c9\u00df\u017f\u212a\u00b5\u039c",
    *"\u0130\u0131\u01c5\u1fb3\ufb01\u0663\u00b2\u00bd\u4e16\u304c\u0301\u200b\u200d\U0001f600\ud83d",
]
TEXTS = [
    "", " ", "\n", "A dog runs.", " A dog runs.", "A dog runs. ", "a dog's", "DOG", "straße", "a b",
    "2024-01-31", "\u0662\u0660\u0662\u0664-01-31", "x\ny", "x\n\ny", "dog, cat", "😀!",
    "naïve café",
]  # fmt: skip


def same(expression: str, text: str) -> bool:
    verdict = pattern(expression)([""], [text])[0]
    assert verdict == bool(re.fullmatch(expression, text.strip())), (expression, text)
    return verdict


@pytest.mark.parametrize(
    "expression",
    [
        r".", r"\w|\s", r"[^\W\d_]", r"(?i)[k-s]|ß|é|\u0130", r"(?a:\d)|[\x80-\u2fff]",
        r"(?ai)[^a-k]",
    ],
)  # fmt: skip
def test_every_character(expression):
    """Each as a whole text, through the automaton's own reading."""
    (automaton,) = pattern(expression).automata("")
    symbols, compiled = automaton.read("".join(EVERY_CHARACTER)), re.compile(expression)
    verdict = {symbol: automaton.accepts(symbol) for symbol in set(symbols)}
    for character, symbol in zip(EVERY_CHARACTER, symbols, strict=True):
        expected = bool(compiled.fullmatch(character.strip()))
        assert verdict[symbol] == expected, (expression, character)


@pytest.mark.parametrize(
    "expression",
    [
        r"[A-Z][^.!?]*[.!?]", r"\d{4}-\d\d-\d\d", r"(?i).*\bdog\b.*", r"^\w+$", r"\A.*\Z",
        r"(?m)^x$\n+^y$", r"(?s)x.*y", r".*\B'.*", r"(?a).*\bnaïve\b.*", r"(\w+[, -]+)*\w+",
        r"(?x) a \ b  # a comment", r"(?i:dog)|CAT", r"(?:a|)*?b?", r"\b|a", r"\B|a", r"",
        r"$^", r".*?", r"(?s)x$.*",
        r"(?im)^.+$", r"(?P<first>a|x)(\n|\s)?.*", r"[^a]+", r"\w*😀.",
    ],
)  # fmt: skip
def test_texts(expression):
    rng = random.Random(0)
    for text in TEXTS:
        same(expression, text)
    for _ in range(300):
        same(expression, "".join(rng.choices(ODD, k=rng.randint(0, 6))))
    parts = [*"ab xy.\n'", "dog", "DOG", "na\u00efve", "2024", "-01", " "]
    for _ in range(300):
        same(expression, "".join(rng.choices(parts, k=rng.randint(1, 5))))


def test_random_expressions_on_all_short_texts():
    rng, accepted, total = random.Random(1), 0, 0

    def expression(depth: int) -> str:
        kind = rng.random()
        if depth == 0 or kind < 0.3:
            return rng.choice(["a", "b", " ", ".", "[ab]", "[^a]", r"\w", r"\s", "^", "$", r"\b"])
        if kind < 0.55:
            return expression(depth - 1) + expression(depth - 1)
        if kind < 0.75:
            return f"(?:{expression(depth - 1)}|{expression(depth - 1)})"
        times = rng.choice(["*", "+", "?", "{2}", "{1,2}", "*?", "{2,}"])
        return f"(?:{expression(depth - 1)}){times}"

    texts = ["".join(letters) for n in range(5) for letters in itertools.product("ab ", repeat=n)]
    for _ in range(20):
        given = f"(?:{expression(3)})?"  # every one is satisfied by some text
        automaton = pattern(given).automata("")[0]
        for text in texts:
            expected = bool(re.fullmatch(given, text.strip()))
            assert automaton.satisfied_by(text) == expected, (given, text)
            accepted, total = accepted + expected, total + 1
    assert total / 60 < accepted < total / 2


def test_a_character_that_is_not_there_in_full():
    """Neither a pattern nor its negation is satisfied where it matters."""
    for expression, text, verdicts in (
        ("a.*", f"a{UNKNOWN}", (False, False)),  # it may be a new line
        ("(?s)a.*", f"a{UNKNOWN}", (True, False)),
        ("(?s)a.*", f"b{UNKNOWN}", (False, True)),
        ("(?s).*a", f"{UNKNOWN}a", (True, False)),
        ("ab", f"a{UNKNOWN}b", (False, False)),
        ("(?s)(..)*", f"a{UNKNOWN}a", (False, False)),
    ):
        constraint = pattern(expression)
        assert (constraint([""], [text])[0], (~constraint)([""], [text])[0]) == verdicts


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (r"(", "unterminated"), (r"x{3,2}", "greater than max"), (r"(a)\1", "a backreference"),
        (r"(?=a)b", "lookaround"), (r"b(?<!a)", "lookaround"), (r"(?!)", "lookaround"),
        (r"a*+", "a possessive"), (r"(?>a|b)", "an atomic"), (r"(a)?(?(1)b|c)", "a conditional"),
        (r"a\bb", "no text satisfies it"), (r"a\n", "no text satisfies it"),
        (r"a{20000}", "more than 16,384 steps"), (r"(a{99}){999}", "more than 16,384 steps"),
        (r"[ab]*a[ab]{14}", "more than 4,096 states"), ("(" * 999 + ")" * 999, "recursion"),
    ],
)  # fmt: skip
def test_what_is_refused(expression, message):
    said = refused(message, pattern, expression)
    assert said.startswith(f"pattern({quote(expression)})")


def test_the_same_expression_has_the_same_automaton():
    assert pattern("ab|c").automata("x")[0] is pattern("ab|c").automata("y")[0]

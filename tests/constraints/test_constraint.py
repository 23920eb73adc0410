"""And, or, not: against their definitions on all short texts."""

import itertools

import pytest
from support.folders import refused

from dinado_jax.automata.automaton import explore
from dinado_jax.automata.logic import complement, disjoint, union, with_partial
from dinado_jax.constraints.constraint import Constraint
from dinado_jax.constraints.counting import at_least_words, at_most_words
from dinado_jax.constraints.pattern import pattern
from dinado_jax.constraints.words import any_of_words, contains, in_order, without
from dinado_jax.oracles.table import resolve

TEXTS = ["".join(letters) for n in range(7) for letters in itertools.product("ab ", repeat=n)]
EVEN = pattern("((.(?: |.)){2})*")


def verdicts(constraint: Constraint) -> list[bool]:
    """By the constraint, and by the automata that a mask uses."""
    labels = constraint([""] * len(TEXTS), TEXTS)
    automata = constraint.automata("")
    assert labels == [all(each.satisfied_by(text) for each in automata) for text in TEXTS]
    return labels


SIMPLE = {
    contains("a"): lambda text: "a" in text.split(),
    without("ab", "b"): lambda text: not {"ab", "b"} & set(text.split()),
    pattern("a*b?.*a"): lambda text: text.strip().endswith("a"),
    at_most_words(2): lambda text: len(text.split()) <= 2,
    at_least_words(2): lambda text: len(text.split()) >= 2,
    pattern("(..)*"): lambda text: len(text.strip()) % 2 == 0,
}
BY_DEFINITION = {each: [meets(text) for text in TEXTS] for each, meets in SIMPLE.items()}


@pytest.mark.parametrize("constraint", SIMPLE, ids=str)
def test_single_constraints_and_their_negations(constraint):
    expected = BY_DEFINITION[constraint]
    assert verdicts(constraint) == expected
    assert verdicts(~constraint) == [not each for each in expected]
    assert verdicts(~~constraint) == expected


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(SIMPLE, 2)])
def test_two_constraints(one, other):
    left, right = BY_DEFINITION[one], BY_DEFINITION[other]
    assert verdicts(one & other) == [a and b for a, b in zip(left, right)]
    assert verdicts(one | other) == [a or b for a, b in zip(left, right)]
    assert verdicts(~(one & ~other)) == [not a or b for a, b in zip(left, right)]


def test_a_conjunction_keeps_its_automata():
    both = contains("a", "b") & without("c")
    assert len(both.automata("")) == 3
    assert both.automata("") == (*contains("a", "b").automata("x"), *without("c").automata("y"))
    assert len((both & contains("a")).automata("")) == 3
    assert len((both | contains("d")).automata("")) == 3
    assert str(~both | EVEN) == f"(~(contains('a', 'b') & without('c')) | {EVEN})"


def test_automata_are_minimal():
    odd = explore(0, lambda state, s: (state + (s == "a")) % 2, bool, "ab")
    even = explore(0, lambda state, s: (state + (s == "a")) % 2, lambda state: not state, "ab")
    assert union((odd, even)).table.shape == (1, 2)
    assert disjoint(odd, even) and not disjoint(odd, odd)
    assert len(complement(odd).table) == 3  # one of them has no way out
    assert complement(odd).accepts("aab") and not complement(odd).accepts("aa\ufffd")
    assert with_partial(union((odd, even))).accepts("a\ufffdb")


def test_a_constraint_that_no_text_satisfies_is_refused():
    dog, none = contains("dog"), without("dog")
    refused(r"\(contains\('dog'\) & without\('dog'\)\), no text satisfies", dog.__and__, none)
    refused("no text satisfies", at_least_words(3).__and__, at_most_words(2))
    refused("no text satisfies", dog.__and__, at_most_words(0))
    refused("no text satisfies", pattern("(?s).*").__invert__)
    refused("no text satisfies", in_order("a", "b").__and__, without("b"))
    assert (any_of_words("a", "b") & without("b"))([""], ["a"]) == [True]


def test_a_constraint_is_an_oracle(tmp_path, monkeypatch):
    text = "from dinado_jax.constraints.words import contains\ndog = contains('dog')\n"
    (tmp_path / "constraint_of_mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    found = resolve("constraint_of_mine:dog")
    assert found.automata_of is not None and found.function([""], ["a dog"]) == [True]
    assert resolve("lexical").automata_of and not resolve("at_most_12_words").automata_of

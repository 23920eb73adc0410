"""How a text begins and ends."""

import itertools

import pytest
from support.folders import refused

from dinado_jax.constraints import ends_with, starts_with

TEXTS = ["".join(each) for n in range(5) for each in itertools.product("a. A\n", repeat=n)]


@pytest.mark.parametrize("ends", [("a",), ("A", "a."), (". a",), (".\na", "aa")])
def test_they_are_those_of_strings(ends):
    for constraint, meets in ((starts_with, str.startswith), (ends_with, str.endswith)):
        expected = [meets(text.strip(), ends) for text in TEXTS]
        assert constraint(*ends)([""] * len(TEXTS), TEXTS) == expected and any(expected)


def test_they_are_named_and_made_once():
    one = starts_with("a", "(")
    assert str(one) == "starts_with('a', '(')" == one.automata("")[0].name
    assert one.automata("") == starts_with("a", "(").automata("")


def test_what_is_refused():
    refused("nothing to look for", starts_with)
    refused("nothing to look for", ends_with, "a", "")
    refused("the white space at its begin", starts_with, " a")
    refused("the white space at its end", ends_with, "a\n")
    assert starts_with("a ")([""], ["a b"]) == [True]

"""Keywords found in texts, agreeing with the oracle."""

import pytest

from dinado_jax.tasks.keyword.lexical import present
from dinado_jax.tasks.keyword.wanted import wanted


def marked(prompt, text):
    return {each.name: [text[slice(*span)] for span in each.spans] for each in wanted(prompt, text)}


def test_every_inflection_is_found_where_it_is():
    text = "Dogs ran. The dog, running (a hot dog), left the category!"
    assert marked("dog run hot-dog cat =", text) == {
        "dog": ["Dogs", "dog", "dog"],
        "run": ["ran", "running"],
        "hot-dog": ["hot dog"],
        "cat": [],
    }


@pytest.mark.parametrize(
    "prompt, text",
    [
        ("dog =", "a d\u00adog"),
        ("café =", "two CAFES"),
        ("win =", "it won't"),
        ("hot-dog =", "hotdogs"),
        ("hotdog =", "a hot-dog"),
        ("do =", "do n't"),
        ("dog =", ""),
    ],
)
def test_it_is_present_where_the_oracle_says_so(prompt, text):
    (each,) = wanted(prompt, text)
    assert each.present == present([prompt.removesuffix(" =")], text)[0] == bool(each.spans)


def test_a_repeated_keyword_is_named_once():
    assert [each.name for each in wanted("dog dog =", "x")] == ["dog"]

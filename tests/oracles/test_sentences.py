"""Oracles on plain English: what they accept, text by text."""

import pytest

from dinado_jax.oracles.table import resolve


@pytest.mark.parametrize(
    "oracle, accepted, refused",
    [
        (
            "mentions_colour",
            ["a Red, red rose.", "blue-green light", "SILVER"],
            ["", "he reddened", "a bored blackbird", "colour"],
        ),
        (
            "ends_with_question",
            ["why?", "did he? ", 'she asked "why?"', "\u201cwho?\u201d", "really?!?"],
            ["", "why? because.", "why ?!", "no question"],
        ),
        (
            "at_most_12_words",
            ["", "one", " ".join(["word"] * 12) + " .", "it won't " + "go " * 10],
            [" ".join(["word"] * 13), "well-known " + "fact " * 11],
        ),
    ],
)
def test_what_is_accepted(oracle, accepted, refused):
    texts = [*accepted, *refused]
    labels = resolve(oracle).function([""] * len(texts), texts)
    assert dict(zip(texts, labels)) == dict.fromkeys(accepted, True) | dict.fromkeys(refused, False)


def test_the_prompt_is_not_judged():
    assert resolve("mentions_colour").function(["a red"], ["hat"]) == [False]

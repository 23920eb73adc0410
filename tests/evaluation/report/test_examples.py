"""Samples side by side: which come first, and what is marked in them."""

import dataclasses

from support import reports

from dinado_jax.evaluation.report.examples import pairs
from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.token_values import TokenValues
from dinado_jax.oracles.table import resolve

LEXICAL = resolve("lexical").wanted_in


def sample(prompt_id, text, label, prompt="dog run ="):
    return Sample(prompt_id, prompt, text, label, -1.0, -2.0, 3, True, 0.5)


def joined(text):
    return "".join(piece.text for piece in text.pieces)


def test_failures_of_the_control_come_first_then_those_of_the_base():
    labels = {0: (1, 1), 1: (0, 1), 2: (1, 0), 3: (0, 0)}
    sides = [[sample(n, f"{n}", float(pair[k])) for n, pair in labels.items()] for k in (0, 1)]
    found = pairs(*sides, None, {}, 10**6)
    assert [joined(pair.base) for pair in found] == ["3", "2", "1", "0"]
    assert [pair.control.succeeds for pair in found] == [False, False, True, True]


def test_samples_of_a_prompt_are_paired_in_their_order():
    base = [sample(0, "a", 1.0), sample(0, "b", 1.0), sample(2, "c", 1.0)]
    control = [sample(0, "d", 1.0), sample(1, "e", 1.0)]
    (pair,) = pairs(base, control, None, {}, 10**6)
    assert (joined(pair.base), joined(pair.control)) == ("a", "d")


def test_inflections_are_marked_and_what_lacks_is_named():
    text = "Two dogs, running; a dog's bone."
    (pair,) = pairs([sample(0, "The cat.", 0.0)], [sample(0, text, 1.0)], LEXICAL, {}, 10**6)
    marked = [piece.text for piece in pair.control.pieces if piece.wanted]
    assert marked == ["dogs", "running", "dog's"] and joined(pair.control) == text
    assert pair.control.lacks == () and pair.base.lacks == ("dog", "run")


def test_a_word_that_is_wanted_twice_is_marked_once():
    asked = sample(0, "a hot-dog", 1.0, "hot-dog dog =")
    (pair,) = pairs([asked], [asked], LEXICAL, {}, 10**6)
    assert [(piece.text, piece.wanted) for piece in pair.base.pieces] == [
        ("a ", False),
        ("hot-dog", True),
    ]


def test_without_an_oracle_that_says_what_it_wants_nothing_is_marked():
    (pair,) = pairs([sample(0, "dog", 0.0)], [sample(0, "dog", 1.0)], None, {}, 10**6)
    assert pair.base.lacks == () and not any(piece.wanted for piece in pair.control.pieces)


def test_long_texts_are_cut_and_the_last_pairs_left_out():
    text = "dog " * 2000
    (pair,) = pairs([sample(0, text, 1.0)], [sample(0, text, 1.0)], LEXICAL, {}, 10**6)
    assert joined(pair.control) == text[:2000] + " …"
    base, control = reports.samples(500, 4, 1), reports.samples(500, 4, 3)
    every, few = (pairs(base, control, None, {}, most) for most in (10**7, 100_000))
    assert len(every) == 2000 and 100 < len(few) < 200 and few == every[: len(few)]
    quotes = [dataclasses.replace(s, text='"' * 100) for s in control]
    assert len(pairs(base, quotes, None, {}, 100_000)) < 0.6 * len(few)


def valued(model, sample, *tokens):
    pieces, values = zip(*tokens)
    return {(model, sample): TokenValues(model, sample, 0.25, pieces, values)}


def test_a_text_is_cut_after_each_token_and_at_marks():
    base = [sample(0, "a cat", 0.0), sample(0, "no", 0.0)]
    control = [sample(0, "dog", 1.0), sample(0, "hotdogs dog.", 0.0)]
    tokens = [("hot", 0.1), ("dogs", 0.2), (" do", 0.5), ("g.", 0.9), ("", 1.0)]
    found = pairs(base, control, LEXICAL, valued("control", 1, *tokens), 10**6)
    first, second = found  # the failure of the control, and the other
    assert [(p.text, p.wanted, p.value) for p in first.control.pieces] == [
        ("hot", False, 0.1),
        ("dogs", False, 0.2),
        (" ", False, 0.5),
        ("do", True, 0.5),
        ("g", True, 0.9),
        (".", False, 0.9),
    ]
    assert first.prompt_value == 0.25 and second.prompt_value is None
    assert {p.value for text in (second.control, first.base) for p in text.pieces} == {None}


def test_values_take_their_share_of_the_page():
    base, control = reports.samples(100, 4, 1), reports.samples(100, 4, 3)
    values = {}
    for number in range(400):
        values |= valued("control", number, *[(" x", 0.5)] * 50)
    every, few = (pairs(base, control, None, own, 200_000) for own in ({}, values))
    assert len(few) < 0.3 * len(every)

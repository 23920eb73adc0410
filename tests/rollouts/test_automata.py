"""Success rates by tokens left and class of the oracle's state, counted by hand."""

import math

import numpy as np

from dinado_jax.automata import progress
from dinado_jax.automata.automaton import explore
from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.tokens import Vocabulary, token_automaton
from dinado_jax.controls.state import StateReader
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.automata import log_rates_by_state, log_values_by_state

TEXTS = ["", "a", "b"]  # token 0 ends a text
WANTED = [("a",), ("a", "b")]
# Of each row: the number of its prompt, its tokens, its weight.
ROWS = [(0, [1, 0], 1.0), (0, [2, 0], 1.0), (1, [2, 1, 0], 0.5), (1, [2, 2, 0], 1.0)]
MOST = 3


def containing(letter: str):
    return explore("", lambda state, symbol: state or symbol * (symbol == letter), bool, "ab")


def satisfied(prompt: int, text: str) -> bool:
    return all(letter in text for letter in WANTED[prompt])


def class_of(prompt: int, text: str, left: int) -> int:
    """None of these words can be begun without being there."""
    missing = sum(letter not in text for letter in WANTED[prompt])
    return progress.IMPOSSIBLE if missing > left else 2 + 4 * missing


def compiled():
    vocabulary = Vocabulary.of(TEXTS)
    return stack(
        [
            conjunction([token_automaton(containing(letter), vocabulary) for letter in own], [0])
            for own in WANTED
        ]
    )


def rollouts(log_ratio: np.ndarray) -> Rollouts:
    """Of log q - log p of every new token, [N, MOST]."""
    N, width = len(ROWS), 1 + MOST
    tokens = np.zeros((N, width), np.int32)
    for row, (_, new, _) in enumerate(ROWS):
        tokens[row, 1 : 1 + len(new)] = new
        log_ratio[row, len(new) :] = 0
    texts = ["".join(TEXTS[token] for token in new) for _, new, _ in ROWS]
    before = np.cumsum(log_ratio, 1) - log_ratio
    return Rollouts(
        tokens=tokens,
        prompt_length=np.ones(N, np.int32),
        length=np.int32([1 + len(new) for _, new, _ in ROWS]),
        label=np.float32([satisfied(row[0], text) for row, text in zip(ROWS, texts)]),
        log_base=np.zeros(N, np.float32),
        log_proposal=log_ratio.sum(1).astype(np.float32),
        log_prefix=-before.astype(np.float32),
        prompt_id=np.int32([row[0] for row in ROWS]),
        finished=np.ones(N, bool),
        round=np.zeros(N, np.int32),
    )


def prefixes():
    """Yields (row, new tokens, tokens left, class) for each prefix that a token follows."""
    for row, (prompt, new, _) in enumerate(ROWS):
        for count in range(len(new)):
            text, left = "".join(TEXTS[token] for token in new[:count]), MOST - count
            yield row, count, left, class_of(prompt, text, left)


def means(values: np.ndarray, weight: np.ndarray, which: int, most: int, prior: float) -> float:
    """Of values [N, MOST] of the prefixes of a class near a number of tokens left."""
    own = [
        (weight[row] * max(0, 1 - abs(left - most) / 3), values[row, count])
        for row, count, left, its in prefixes()
        if its == which
    ]
    return (10 * prior + sum(w * x for w, x in own)) / (10 + sum(w for w, _ in own))


def is_known(which: int, most: int) -> bool:
    """Whether the text ends there and succeeds, or is cut."""
    return which == progress.ENDS or (most == 0 and which in progress.SATISFIED)


def test_rates_of_prefixes_by_hand():
    rows, weight = rollouts(np.zeros((len(ROWS), MOST))), np.array([row[2] for row in ROWS])
    found = log_rates_by_state(StateReader(4, MOST), rows, weight, compiled(), rows.prompt_id)
    assert found.shape == (MOST + 1, progress.COUNT)
    overall = (weight * rows.label).sum() / weight.sum()
    label = np.repeat(rows.label[:, None], MOST, 1)
    for which in range(progress.COUNT):
        own = [row for row, _, _, its in prefixes() if its == which]
        rate = (overall + (weight * rows.label)[own].sum()) / (1 + weight[own].sum())
        for most in range(MOST + 1):
            wanted = math.log(means(label, weight, which, most, rate))
            wanted = 0.0 if is_known(which, most) else wanted
            np.testing.assert_allclose(found[most, which], wanted, rtol=1e-4, atol=1e-6)


def test_values_of_prefixes_by_hand():
    """Between the mean of log C - log (q / p) of what follows, and the logarithm of the mean."""
    draw = np.random.default_rng(0)
    log_ratio = draw.normal(size=(len(ROWS), MOST))
    rows, log_label = rollouts(log_ratio), draw.uniform(-3, 0, len(ROWS))
    before = draw.uniform(-3, 0, (MOST + 1, progress.COUNT)).astype(np.float32)
    reader, automata = StateReader(4, MOST), compiled()
    found = log_values_by_state(reader, rows, log_label, before, automata, rows.prompt_id)
    achieved = log_label[:, None] - np.cumsum(log_ratio[:, ::-1], 1)[:, ::-1]
    for which in range(progress.COUNT):
        for most in range(MOST + 1):
            prior, weight = math.exp(before[most, which] / 4), np.ones(len(ROWS))
            wanted = 4 * math.log(means(np.exp(achieved / 4), weight, which, most, prior))
            wanted = 0.0 if is_known(which, most) else min(wanted, 0.0)
            np.testing.assert_allclose(found[most, which], wanted, rtol=1e-4, atol=1e-6)

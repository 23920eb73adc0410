"""Success rates by tokens left and class of the oracle's state, counted by hand."""

import math

import numpy as np

from dinado_jax.automata import progress
from dinado_jax.automata.automaton import explore
from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.tokens import Vocabulary, token_automaton
from dinado_jax.controls.state import StateReader
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.automata import log_rates_by_state

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


def test_rates_of_prefixes_by_hand():
    vocabulary = Vocabulary.of(TEXTS)
    automata = stack(
        [
            conjunction([token_automaton(containing(letter), vocabulary) for letter in own], [0])
            for own in WANTED
        ]
    )
    N, width = len(ROWS), 1 + MOST
    tokens = np.zeros((N, width), np.int32)
    for row, (_, new, _) in enumerate(ROWS):
        tokens[row, 1 : 1 + len(new)] = new
    texts = ["".join(TEXTS[token] for token in new) for _, new, _ in ROWS]
    label = np.float32([satisfied(row[0], text) for row, text in zip(ROWS, texts)])
    rollouts = Rollouts(
        tokens=tokens,
        prompt_length=np.ones(N, np.int32),
        length=np.int32([1 + len(new) for _, new, _ in ROWS]),
        label=label,
        log_base=np.zeros(N, np.float32),
        log_proposal=np.zeros(N, np.float32),
        log_prefix=np.zeros((N, width - 1), np.float32),
        prompt_id=np.int32([row[0] for row in ROWS]),
        finished=np.ones(N, bool),
        round=np.zeros(N, np.int32),
    )
    weight = np.array([row[2] for row in ROWS])
    found = log_rates_by_state(StateReader(4, MOST), rollouts, weight, automata, rollouts.prompt_id)
    assert found.shape == (MOST + 1, progress.COUNT)
    prefixes = []  # tokens left, class, weight and label of those that are followed by a token
    for (prompt, new, mass), good in zip(ROWS, label):
        for count in range(len(new)):
            text, left = "".join(TEXTS[token] for token in new[:count]), MOST - count
            prefixes.append((left, class_of(prompt, text, left), mass, good))
    overall = (weight * label).sum() / weight.sum()
    for which in range(progress.COUNT):
        own = [(left, mass, good) for left, its, mass, good in prefixes if its == which]
        rate = (overall + sum(mass * good for _, mass, good in own)) / (
            1 + sum(mass for _, mass, _ in own)
        )
        for most in range(MOST + 1):
            near = [(mass * max(0, 1 - abs(left - most) / 3), good) for left, mass, good in own]
            seen = 10 + sum(mass for mass, _ in near)
            wanted = math.log((10 * rate + sum(mass * good for mass, good in near)) / seen)
            if which == progress.ENDS or (most == 0 and which in progress.SATISFIED):
                wanted = 0.0
            np.testing.assert_allclose(found[most, which], wanted, rtol=1e-4, atol=1e-6)

"""Automata that never settle, with others: the number of tokens needed is still a promise."""

import jax.numpy as jnp
import numpy as np

from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.joint import maskable
from dinado_jax.automata.tokens import NEVER, TokenAutomaton, Vocabulary, token_automaton
from dinado_jax.constraints.counting import at_least_words, at_most_words
from dinado_jax.constraints.pattern import pattern
from dinado_jax.constraints.words import contains, without
from dinado_jax.guides.constraint import tokens_needed

TEXTS = [" a", "b", " b", " ", "c", ".", "", "\ufffd"]
STOP = 6
CONSTRAINTS = {  # with the number of automata in the mask
    without("a"): 1,
    at_most_words(2): 1,
    at_most_words(2) & at_least_words(2) & without("b"): 1,
    contains("b") & without("c"): 1,
    contains("a", "b") & without("c"): 2,
    contains("a", "b") & pattern("[^.]*[.]"): 1,
    contains("a", "b") & pattern("(?s).*[.]"): 2,
    contains("a", "b", "bb") & pattern(".*[.]") & without("c"): 3,
    contains("a", "b") & at_most_words(2): 1,
    contains("a", "b") | without("c"): 2,
    ~pattern("[ab ]*") & contains("a", "bc"): 3,
}


def over_tokens(constraint) -> list[TokenAutomaton]:
    return maskable(
        [
            token_automaton(each, Vocabulary.of([each.read(text) for text in TEXTS]))
            for each in constraint.automata("")
        ]
    )


def successors(automata) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Of every joint state that tokens lead to, those after one more token."""
    found, front = {}, [(0,) * len(automata)]
    while front:
        at = front.pop()
        found[at] = [
            tuple(int(a.table[s, a.class_of[token]]) for a, s in zip(automata, at))
            for token in range(len(TEXTS))
            if token != STOP
        ]
        front += set(found[at]) - set(found) - set(front)
    return found


def least_numbers(automata, following) -> dict[tuple[int, ...], int]:
    """Of tokens until all accept, from each state."""
    least = {
        at: 0 if all(a.accepting[s] for a, s in zip(automata, at)) else NEVER for at in following
    }
    while True:
        shorter = {at: min(least[at], 1 + min(map(least.get, to))) for at, to in following.items()}
        if shorter == least:
            return least
        least = shorter


def test_the_number_of_tokens_needed_is_a_promise():
    """From every state, some token needs one fewer, or it is satisfied; of one automaton the least
    of all numbers is found.
    """
    masks = [over_tokens(constraint) for constraint in CONSTRAINTS]
    assert [len(automata) for automata in masks] == list(CONSTRAINTS.values())
    arrays = stack([conjunction(automata, [STOP]) for automata in masks])
    every = [successors(automata) for automata in masks]
    states = np.zeros((len(masks), max(CONSTRAINTS.values()), max(map(len, every))), np.int32)
    for own, automata, following in zip(states, masks, every):
        own[: len(automata), : len(following)] = np.array(list(following)).T
    found = np.asarray(tokens_needed(arrays, jnp.arange(len(masks)), jnp.array(states)))
    for constraint, automata, following, own in zip(CONSTRAINTS, masks, every, found):
        least, needed = least_numbers(automata, following), dict(zip(following, own.tolist()))
        assert needed[(0,) * len(automata)] < NEVER
        for at, to in following.items():
            assert needed[at] >= least[at] and (needed[at] == 0) == (least[at] == 0), constraint
            assert not 0 < needed[at] < NEVER or min(map(needed.get, to)) < needed[at], constraint
            assert len(automata) > 1 or min(needed[at], NEVER) == least[at], constraint

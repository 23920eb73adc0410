"""The guide of an HMM and a constraint, against the sum over all texts."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from dinado_jax.automata.joint import product
from dinado_jax.automata.tokens import Vocabulary, token_automaton
from dinado_jax.constraints import (
    any_of_words,
    at_least_words,
    at_most_words,
    contains,
    ends_with,
    in_order,
    pattern,
    starts_with,
    without,
)
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.guides.hmm import KEY, hmm_guide
from dinado_jax.hmm.model import random_hmm
from dinado_jax.models.output import Output

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TEXTS = [" a", "b", " b", " ", "c", "", "\ufffd"]
STOP, L = 5, 4
CONSTRAINTS = [
    contains("a"),
    contains("a b"),
    contains("a", "b"),
    any_of_words("a", "cb"),
    without("b"),
    in_order("b", "a"),
    at_least_words(2),
    at_most_words(1),
    starts_with("b"),
    ends_with("b", "bc"),
    pattern("(b|c)? ?(a ?b)*"),
    contains("a") & at_most_words(2) & ~ends_with("b"),
    contains("a") | pattern("b+"),
]


@functools.cache
def over_tokens(constraint):
    vocabularies = functools.cache(lambda read: Vocabulary.of([read(text) for text in TEXTS]))
    automata = constraint.automata("")
    return product([token_automaton(each, vocabularies(each.read)) for each in automata])


@functools.cache
def all_texts():
    """Token ids of every text: ended by the stop token, or cut at L."""
    others = [token for token in range(len(TEXTS)) if token != STOP]
    ended = [
        (*row, STOP) for length in range(L) for row in itertools.product(others, repeat=length)
    ]
    return [*ended, *itertools.product(others, repeat=L)]


def log_likelihood(hmm, row, state):
    """By the definition, float64; `state` are the probabilities of the first one."""
    total = 0.0
    for token in row:
        joint = state * np.float64(hmm.emission[token])
        total += np.log(joint.sum())
        state = joint / joint.sum() @ np.float64(hmm.transition)
    return total, state


def values_by_hand(hmm, constraint, prompt):
    """R of every prefix of every text: the success rate of the texts that begin with it."""
    start = np.float64(hmm.initial)
    if hmm.reads_prompt:
        _, start = log_likelihood(hmm, prompt, start)
    texts = ["".join(TEXTS[token] for token in row if token != STOP) for row in all_texts()]
    labels = constraint([""] * len(texts), texts)
    total, success = {}, {}
    for row, label in zip(all_texts(), labels):
        prob = np.exp(log_likelihood(hmm, row, start)[0])
        for length in range(len(row) + 1):
            key = row[:length]
            total[key] = total.get(key, 0.0) + prob
            success[key] = success.get(key, 0.0) + label * prob
    return {key: success[key] / total[key] for key in total}


def prefilled(hmm, constraints, prompts, samples, **how):
    guide, arrays = hmm_guide(hmm, [over_tokens(each) for each in constraints], [STOP], L, **how)
    condition = {KEY: np.arange(len(constraints), dtype=np.int32)}
    batch = TokenizedPrompts(prompts, condition).batch(np.arange(len(prompts)), 0, 4)
    base = Output(jnp.zeros((len(prompts), 4, 1)), jnp.zeros((len(TEXTS), 1)), None)
    return guide, arrays, base, guide.prefill(arrays, None, base, batch, samples, L - 1)


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_r_is_the_success_rate_over_all_continuations(reads_prompt):
    """Of every constraint, at every prefix, after every token; V likewise."""
    hmm = random_hmm(3, len(TEXTS), 0, 2.0).replace(reads_prompt=reads_prompt)
    prompts = [[2, 3], [0], [4, 1, 1]]
    rows = [row for row in itertools.product(range(len(TEXTS)), repeat=L - 1) if STOP not in row]
    for begin in range(0, len(CONSTRAINTS), len(prompts)):
        some = CONSTRAINTS[begin : begin + len(prompts)]
        guide, arrays, base, (values, state) = prefilled(hmm, some, prompts[: len(some)], len(rows))
        wanted = [values_by_hand(hmm, c, p) for c, p in zip(some, prompts)]
        for number, table in enumerate(wanted):
            check(values, number, table, ())
        hidden = jnp.zeros((len(some) * len(rows), 1, 1))
        for length in range(1, L):
            tokens = jnp.array([row[length - 1] for row in rows] * len(some), jnp.int32)
            values, state = guide.step(arrays, None, base.replace(hidden=hidden), tokens, state)
            for number, table in enumerate(wanted):
                for place in range(0, len(rows), 7):
                    check(values, number * len(rows) + place, table, rows[place][:length])


def check(values, row, table, prefix):
    wanted = np.array([table[(*prefix, token)] for token in range(len(TEXTS))])
    if wanted.any():  # of a prefix that is lost already nothing is asked
        found = np.exp(np.asarray(values.log_after[row], np.float64))
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)
        assert ((found == 0) == (wanted == 0)).all()
        np.testing.assert_allclose(np.exp(values.log_value[row]), table[prefix], atol=1e-5)

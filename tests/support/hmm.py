"""Texts drawn from a hidden Markov model."""

import numpy as np

from dinado_jax.hmm.model import Hmm, Rows


def sample(hmm: Hmm, count: int, length: int, stop: int, seed: int = 0) -> Rows:
    """Each ends with the stop token, or is cut."""
    rng = np.random.default_rng(seed)

    def drawn(probs):  # of each column
        return (rng.random(probs.shape[1]) > np.cumsum(probs, 0)).sum(0).clip(max=len(probs) - 1)

    tokens, lengths = np.zeros((count, length), np.int32), np.full(count, length, np.int32)
    state = drawn(np.repeat(np.float64(hmm.initial)[:, None], count, 1))
    for t in range(length):
        token = drawn(np.float64(hmm.emission)[:, state])
        tokens[:, t] = token
        ends = (token == stop) & (lengths == length)
        lengths[ends] = np.minimum(lengths[ends], t + 1)
        state = drawn(np.float64(hmm.transition)[state].T)
    tokens[np.arange(length)[None] >= lengths[:, None]] = 0
    return Rows(tokens, lengths)

"""Draws a million tokens from logits of every kind, and counts the wrong ones.

    python benchmarks/draws.py [--rows 1000000] [--seed 0] [--vocabularies 37 50257]

Logits are ordinary, tied, huge, tiny, masked or one-hot; vocabularies have 2 to 50,257 tokens,
temperatures go from 1e-12 to 1e6, top-k and top-p are used alone and together; the program is
compiled, as in decoding. Prints one line of JSON. `out_of_range`, `impossible` (a token whose logit
is -inf) and `not_finite` (its log-probability) must all be 0.
"""

import argparse
import json
import time
from collections.abc import Sequence

import jax
import numpy as np

from dinado_jax.decoding.methods import Method

# Vocabulary: its share of all rows. The widest are slow and get few.
SHARES = {2: 0.2, 4: 0.2, 37: 0.2, 703: 0.25, 1024: 0.142, 50257: 0.008}
TEMPERATURES = (0.0, 1e-12, 1e-10, 3e-9, 1e-8, 1e-4, 0.3, 1.0, 30.0, 1e6)
TRUNCATIONS = ((0, 1.0), (3, 1.0), (0, 0.9), (50, 0.3), (5, 1e-9))
LONGEST = 2**22  # logits of one call

_draw = jax.jit(Method.draw, static_argnums=0)


def rows(rng: np.random.Generator, count: int, vocabulary: int) -> np.ndarray:
    """Returns logits [count, vocabulary] float32 of all kinds; every row has a finite one."""
    logits = rng.normal(size=(count, vocabulary)).astype(np.float32)
    logits *= rng.choice(np.float32([1e-6, 1, 5, 100]), (count, 1))
    kind = np.arange(count) % 8
    logits[kind == 1] = np.round(logits[kind == 1])  # ties
    logits[kind == 2] = logits[kind == 2, :1]  # all the same
    logits[kind == 3] *= np.float32(1e30)
    logits[kind == 4] = np.sign(logits[kind == 4]) * np.float32(3e38)
    logits[kind == 5] *= np.float32(1e-38)
    masked = rng.random(logits.shape, np.float32) < rng.choice([0.1, 0.9, 1.0], (count, 1))
    masked &= (kind >= 6)[:, None]
    masked[np.arange(count), rng.integers(0, vocabulary, count)] = False
    return np.where(masked, -np.inf, np.clip(logits, -3.4e38, 3.4e38)).astype(np.float32)


def errors(method: Method, logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Counts tokens outside the vocabulary, with a logit of -inf, and with a log-probability that
    is not finite: [3]."""
    tokens, log_prob = map(np.asarray, _draw(method, logits, uniform))
    outside = (tokens < 0) | (tokens >= logits.shape[1])
    drawn = logits[np.arange(len(logits)), np.where(outside, 0, tokens)]
    impossible = ~outside & (drawn == -np.inf)
    return np.array([outside.sum(), impossible.sum(), (~np.isfinite(log_prob)).sum()])


def search(count: int, seed: int, vocabularies: Sequence[int] = tuple(SHARES)) -> dict:
    """Draws about `count` rows; returns {rows, out_of_range, impossible, not_finite, seconds}."""
    rng, started = np.random.default_rng(seed), time.perf_counter()
    found, done = np.zeros(3, int), 0
    for place, vocabulary in enumerate(vocabularies):
        each = max(8, round(count * SHARES[vocabulary] / len(TEMPERATURES)))
        size = max(8, min(each, LONGEST // vocabulary))
        for turn, temperature in enumerate(TEMPERATURES):  # one program each
            method = Method(temperature, *TRUNCATIONS[(turn + place) % len(TRUNCATIONS)])
            for _ in range(-(-each // size)):
                uniform = rng.random(size, np.float32)
                uniform[:2] = 0, np.nextafter(np.float32(1), np.float32(0))
                found += errors(method, rows(rng, size, vocabulary), uniform)
                done += size
    names = ("out_of_range", "impossible", "not_finite")
    seconds = round(time.perf_counter() - started, 1)
    return {"rows": done, **dict(zip(names, found.tolist())), "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabularies", type=int, nargs="+", choices=SHARES, default=[*SHARES])
    args = parser.parse_args()
    print(json.dumps(search(args.rows, args.seed, args.vocabularies)))

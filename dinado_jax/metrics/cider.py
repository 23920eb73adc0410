"""CIDEr and CIDEr-D (Vedantam et al., CVPR 2015, arXiv 1411.5726), in [0, 10].

What coco-caption and papers after it report as "CIDEr" is CIDEr-D.

Conventions of the authors' code and of coco-caption: tokens of `metrics/treebank.py`, not stemmed;
n from 1 to 4 with equal weights; an n-gram's weight is its count, not divided by the text's length,
times log P - log max(1, prompts with it in a reference), over the P prompts at hand, so values of
different prompt sets do not compare and a single prompt gives 0. Both have the factor 10, which
the paper gives to CIDEr-D alone.
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dinado_jax.metrics.ngrams import count_ngrams
from dinado_jax.metrics.protocol import Item, Measured
from dinado_jax.metrics.treebank import treebank_tokens

_LONGEST = 4
_SIGMA = 6.0
_FACTOR = 10.0


class _Vector(NamedTuple):
    """A text as CIDEr sees it."""

    weights: dict[tuple[str, ...], float]  # tf-idf of n-grams
    norms: list[float]  # for n = 1 to 4
    length: int  # bigrams


def cider(items: Sequence[Item]) -> Measured:
    """CIDEr, equations 2 and 3: the cosine of tf-idf vectors, mean over references, n and texts."""
    return Measured.of_means(_both(tuple(items))[:, 0])


def cider_d(items: Sequence[Item]) -> Measured:
    """CIDEr-D, equation 4: as CIDEr, but a repeated n-gram counts as often as in the reference at
    most, and a difference d in length costs a factor e^(-d^2 / (2 sigma^2)), sigma = 6.
    """
    return Measured.of_means(_both(tuple(items))[:, 1])


@functools.lru_cache(2)  # of a system and a baseline
def _both(items: tuple[Item, ...]) -> np.ndarray:
    """CIDEr and CIDEr-D of each prompt, float64 [P, 2]."""
    held: Counter[tuple[str, ...]] = Counter()
    for item in items:
        held.update(set().union(*(_count(text) for text in item.references)))
    rarity = {ngram: math.log(len(items)) - math.log(count) for ngram, count in held.items()}

    def vector(text: str) -> _Vector:
        return _vector(_count(text), rarity, math.log(len(items)))

    values = np.zeros((len(items), 2))
    for row, item in zip(values, items):
        references = [vector(text) for text in item.references]
        pairs = [(text, other) for text in map(vector, item.texts) for other in references]
        row[:] = _FACTOR * np.mean([_similarities(*pair) for pair in pairs], axis=0)
    return values


def _count(text: str) -> Counter[tuple[str, ...]]:
    return count_ngrams(treebank_tokens(text), _LONGEST)


def _vector(counts: Counter, rarity: dict[tuple[str, ...], float], unseen: float) -> _Vector:
    weights = {ngram: count * rarity.get(ngram, unseen) for ngram, count in counts.items()}
    squares, length = [0.0] * _LONGEST, 0
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
        if len(ngram) == 2:
            length += counts[ngram]
    return _Vector(weights, [math.sqrt(square) for square in squares], length)


def _similarities(text: _Vector, reference: _Vector) -> tuple[float, float]:
    """The terms of CIDEr and of CIDEr-D, each the mean over n."""
    products, clipped = [0.0] * _LONGEST, [0.0] * _LONGEST
    for ngram in text.weights.keys() & reference.weights.keys():
        own, other = text.weights[ngram], reference.weights[ngram]
        products[len(ngram) - 1] += own * other
        clipped[len(ngram) - 1] += min(own, other) * other
    norms = [one * other for one, other in zip(text.norms, reference.norms)]
    cosine, limited = (
        sum(x / norm for x, norm in zip(each, norms) if norm) / _LONGEST
        for each in (products, clipped)
    )
    difference = text.length - reference.length
    return cosine, limited * math.exp(-(difference**2) / (2 * _SIGMA**2))

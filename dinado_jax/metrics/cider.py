"""CIDEr and CIDEr-D (Vedantam et al., CVPR 2015, arXiv 1411.5726), in [0, 10].

What coco-caption and papers after it report as "CIDEr" is CIDEr-D.

Conventions of the authors' code and of coco-caption: tokens of `metrics/treebank.py`, not stemmed;
n from 1 to 4 with equal weights; an n-gram's weight is its count, not divided by the text's length,
times log P - log max(1, prompts with it in a reference), over the P prompts at hand, so values of
different prompt sets do not compare and a single prompt gives 0. Both have the factor 10, which
the paper gives to CIDEr-D alone.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
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
    return _mean(items, _cosine)


def cider_d(items: Sequence[Item]) -> Measured:
    """CIDEr-D, equation 4: as CIDEr, but a repeated n-gram counts as often as in the reference at
    most, and a difference d in length costs a factor e^(-d^2 / (2 sigma^2)), sigma = 6.
    """
    return _mean(items, _clipped)


def _mean(items: Sequence[Item], similarity: Callable[[_Vector, _Vector], float]) -> Measured:
    references = [[_count(text) for text in item.references] for item in items]
    held = Counter(ngram for group in references for ngram in set().union(*group))
    rarity = {ngram: math.log(len(items)) - math.log(count) for ngram, count in held.items()}
    values = []
    for item, group in zip(items, references):
        vectors = [_vector(counts, rarity, len(items)) for counts in group]
        texts = [_vector(_count(text), rarity, len(items)) for text in item.texts]
        similar = [similarity(text, vector) for text in texts for vector in vectors]
        values.append(_FACTOR * np.mean(similar))
    return Measured.of_means(values)


def _count(text: str) -> Counter[tuple[str, ...]]:
    return count_ngrams(treebank_tokens(text), _LONGEST)


def _vector(counts: Counter, rarity: dict[tuple[str, ...], float], prompts: int) -> _Vector:
    unseen = math.log(prompts)
    weights = {ngram: count * rarity.get(ngram, unseen) for ngram, count in counts.items()}
    squares = [0.0] * _LONGEST
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    length = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return _Vector(weights, [math.sqrt(square) for square in squares], length)


def _cosine(text: _Vector, reference: _Vector) -> float:
    products = [0.0] * _LONGEST
    for ngram in text.weights.keys() & reference.weights.keys():
        products[len(ngram) - 1] += text.weights[ngram] * reference.weights[ngram]
    return _normalised(products, text, reference)


def _clipped(text: _Vector, reference: _Vector) -> float:
    products = [0.0] * _LONGEST
    for ngram in text.weights.keys() & reference.weights.keys():
        weight = reference.weights[ngram]
        products[len(ngram) - 1] += min(text.weights[ngram], weight) * weight
    difference = text.length - reference.length
    penalty = math.exp(-(difference**2) / (2 * _SIGMA**2))
    return penalty * _normalised(products, text, reference)


def _normalised(products: Sequence[float], text: _Vector, reference: _Vector) -> float:
    """The mean over n; 0 where either has no n-gram of some rarity."""
    norms = [one * other for one, other in zip(text.norms, reference.norms)]
    return sum(x / norm for x, norm in zip(products, norms) if norm) / _LONGEST

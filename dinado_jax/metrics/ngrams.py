"""Counts of n-grams."""

from collections import Counter
from collections.abc import Sequence


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text in order; none if it has fewer than n tokens."""
    return list(zip(*(tokens[i:] for i in range(n))))


def count_ngrams(tokens: Sequence[str], longest: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram of 1 to `longest` tokens is in a text."""
    counts: Counter[tuple[str, ...]] = Counter()
    for n in range(1, longest + 1):
        counts.update(ngrams(tokens, n))
    return counts

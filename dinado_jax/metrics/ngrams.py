"""Counts of n-grams."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence


def ngrams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of a text in order; none if it has fewer than n tokens."""
    return zip(*(tokens[i:] for i in range(n)))


def count_ngrams(tokens: Sequence[str], longest: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram of 1 to `longest` tokens is in a text."""
    return Counter(itertools.chain.from_iterable(ngrams(tokens, n + 1) for n in range(longest)))

"""BLEU-1 to BLEU-4 (Papineni et al., ACL 2002) as coco-caption computes them, in [0, 1].

Conventions of coco-caption: its tokens (`metrics/treebank.py`); the reference length of a text is
that of its closest reference, of two equally close ones the shorter; precisions are
(matches + 1e-15) / (n-grams + 1e-9), not smoothed otherwise. The value of a prompt is the same
formula of its texts alone, so it is about 0 where no 4-gram matches.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from dinado_jax.metrics.ngrams import count_ngrams
from dinado_jax.metrics.protocol import Item, Measured, Sums
from dinado_jax.metrics.treebank import treebank_tokens

_LONGEST = 4
_SMALL, _TINY = 1e-9, 1e-15


def coco_bleu(n: int) -> Callable[[Sequence[Item]], Measured]:
    """BLEU-n: the geometric mean of the precisions of 1- to n-grams, times the brevity penalty."""

    def value(sums: np.ndarray) -> np.ndarray:
        matches, totals = sums[:, :n], sums[:, _LONGEST : _LONGEST + n]
        length, wanted = sums[:, -2], sums[:, -1]
        precision = np.exp(np.log((matches + _TINY) / (totals + _SMALL)).sum(1) / n)
        ratio = (length + _TINY) / (wanted + _SMALL)
        return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))

    return lambda items: Measured.of_sums(Sums(_statistics(tuple(items)), value))


@functools.lru_cache(2)  # the same for every n, of a system and a baseline
def _statistics(items: tuple[Item, ...]) -> np.ndarray:
    """Matches and n-grams for n = 1 to 4, the texts' tokens and the references': [P, 10]."""
    rows = np.zeros((len(items), 2 * _LONGEST + 2))
    for row, item in zip(rows, items):
        references = [treebank_tokens(text) for text in item.references]
        most: dict[tuple[str, ...], int] = {}
        for reference in references:
            for ngram, count in count_ngrams(reference, _LONGEST).items():
                if count > most.get(ngram, 0):
                    most[ngram] = count
        for text in item.texts:
            tokens = treebank_tokens(text)
            for ngram, count in count_ngrams(tokens, _LONGEST).items():
                row[len(ngram) - 1] += min(count, most.get(ngram, 0))
                row[_LONGEST + len(ngram) - 1] += count
            row[-2] += len(tokens)
            row[-1] += min((abs(len(each) - len(tokens)), len(each)) for each in references)[1]
    return rows

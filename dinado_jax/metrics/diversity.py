"""How texts repeat themselves and each other, from their tokens; no references are read."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dinado_jax.metrics.ngrams import count_ngrams, ngrams

_LONGEST = 4
_NO_MATCH = 0.1  # Chen and Cherry (2014), method 1


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams of the texts (Li et al., arXiv 1510.03055), in [0, 1].

    It falls as texts are added, because they repeat each other: compare equal numbers of texts.
    0.0 if no text has n tokens.
    """
    grams = [ngram for tokens in texts for ngram in ngrams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(tokens: Sequence[str], n: int) -> float:
    """The share of a text's n-grams that repeat an earlier one, 1 - distinct / all, in [0, 1]
    (seq-rep-n of Welleck et al., arXiv 1908.04319); 0.0 if it has no n tokens.
    """
    grams = list(ngrams(tokens, n))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """BLEU-4 of each text against all others (Zhu et al., arXiv 1802.01886): [N] in [0, 1]; their
    mean is Self-BLEU. High if texts resemble each other; nan for a single text.

    Texygen's conventions, which are those of NLTK: precisions of a text's own n-grams, of which one
    without a match counts 0.1 matches (0 for words); the closest length of another text.
    """
    if len(texts) < 2:
        return np.full(len(texts), math.nan)
    # Of the others' counts of an n-gram the highest is the highest of all, or where that is the
    # text's own, the second; so no pair of texts is looked at.
    first: Counter[tuple[str, ...]] = Counter()
    second: Counter[tuple[str, ...]] = Counter()
    for tokens in texts:
        for ngram, count in count_ngrams(tokens, _LONGEST).items():
            if count > first[ngram]:
                first[ngram], second[ngram] = count, first[ngram]
            elif count > second[ngram]:
                second[ngram] = count
    lengths = Counter(len(tokens) for tokens in texts)
    return np.array([_against_others(tokens, first, second, lengths) for tokens in texts])


def _against_others(
    tokens: Sequence[str],
    first: Counter[tuple[str, ...]],
    second: Counter[tuple[str, ...]],
    lengths: Counter[int],
) -> float:
    matches = [0.0] * _LONGEST
    for ngram, count in count_ngrams(tokens, _LONGEST).items():
        others = second[ngram] if count == first[ngram] else first[ngram]
        matches[len(ngram) - 1] += min(count, others)
    if not matches[0]:
        return 0.0
    totals = [max(1, len(tokens) - n) for n in range(_LONGEST)]
    precision = math.exp(
        sum(math.log((match or _NO_MATCH) / total) for match, total in zip(matches, totals))
        / _LONGEST
    )
    own = len(tokens)
    _, closest = min((abs(x - own), x) for x, many in lengths.items() if many > (x == own))
    return precision * (math.exp(1 - closest / own) if own <= closest else 1.0)

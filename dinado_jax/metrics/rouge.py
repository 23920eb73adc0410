"""ROUGE-L (Lin, 2004, section 3.1, equations 2 to 4) as coco-caption computes it, in [0, 1].

Conventions of coco-caption: its tokens (`metrics/treebank.py`); beta = 1.2; precision and recall
are each the highest over the references, which may be those of two different ones.
"""

from collections.abc import Sequence

import numpy as np

from dinado_jax.metrics.protocol import Item, Measured
from dinado_jax.metrics.treebank import treebank_tokens

_BETA = 1.2


def rouge_l(items: Sequence[Item]) -> Measured:
    """The mean over prompts of the mean over their texts."""
    values = []
    for item in items:
        # An empty text counts as one token that nothing matches but another empty text.
        references = [treebank_tokens(text) or ("",) for text in item.references]
        texts = [treebank_tokens(text) or ("",) for text in item.texts]
        values.append(float(np.mean([_f_measure(tokens, references) for tokens in texts])))
    return Measured.of_means(values)


def _f_measure(tokens: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    common = [_longest_common(tokens, reference) for reference in references]
    precision = max(common) / len(tokens)
    recall = max(length / len(reference) for length, reference in zip(common, references))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    # One bit per token of `first`, all of them advanced at once (Hyyrö, 2004): a zero is a step up.
    places: dict[str, int] = {}
    for i, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << i
    whole = (1 << len(first)) - 1
    row = whole
    for token in second:
        matched = row & places.get(token, 0)
        row = (row + matched | row - matched) & whole
    return len(first) - row.bit_count()

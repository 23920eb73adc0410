"""Matched accuracy of formality (M-Acc; Nadejde et al., Findings of NAACL 2022).

Of a translation's two references, a formal and an informal one, the phrases are known that make
them so. A phrase is found in a text if the text has each of its words, between white space. A text
counts as formal if formal phrases are found in it and no informal ones, and the other way around;
texts with both or neither do not count.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Phrases(NamedTuple):
    """What makes the references of a translation formal, and informal."""

    formal: tuple[str, ...]
    informal: tuple[str, ...]


class Matched(NamedTuple):
    """Of N texts."""

    accuracy: float  # share of formal texts among those that count; nan if none does
    counted: float  # share of texts that count


def matched_accuracy(texts: Sequence[str], phrases: Sequence[Phrases]) -> Matched:
    """Computes M-Acc of formal; of informal it is one minus that.

    Args:
      texts: [N], at least one.
      phrases: [N], of the references of each.
    """
    formal, informal = (
        np.array([_found(text, each[side]) for text, each in zip(texts, phrases, strict=True)])
        for side in (0, 1)
    )
    counted = formal != informal
    accuracy = float(formal[counted].mean()) if counted.any() else float("nan")
    return Matched(accuracy, float(counted.mean()))


def _found(text: str, phrases: Sequence[str]) -> bool:
    words = set(text.split())
    return any(words.issuperset(phrase.split()) for phrase in phrases if phrase.split())

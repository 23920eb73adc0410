"""Matched accuracy of formality (M-Acc; Nadejde et al., Findings of NAACL 2022).

Of a translation's two references, a formal and an informal one, the phrases are known that make
them so. A phrase is found in a text if the text has each of its words, between white space. A text
counts as formal if formal phrases are found in it and no informal ones, and the other way around;
texts with both or neither do not count.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from dinado_jax.metrics.protocol import Item, Measured, Phrases, Sums, TextMetric

_MARK = re.compile(r"\[F\](.*?)\[/F\]")


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


def marked_phrases(annotated: str) -> tuple[str, ...]:
    """The phrases of a reference that stand between [F] and [/F], as CoCoA-MT marks them."""
    return tuple(_MARK.findall(annotated))


def without_marks(annotated: str) -> str:
    """The reference itself. A mark that does not close stays in it."""
    return _MARK.sub(r"\1", annotated)


def _counts(items: Sequence[Item]) -> np.ndarray:
    """Of each prompt the texts that are formal, those that count, and all: float64 [P, 3]."""
    rows = np.zeros((len(items), 3))
    for row, item in zip(rows, items):
        assert item.phrases is not None  # the metric needs them
        found = matched_accuracy(item.texts, [item.phrases] * len(item.texts))
        counted = found.counted * len(item.texts)
        row[:] = found.accuracy * counted if counted else 0.0, counted, len(item.texts)
    return rows


def _share(part: int, whole: int, items: Sequence[Item]) -> Measured:
    def value(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # nan where no text counts
            return sums[:, part] / sums[:, whole]

    return Measured.of_sums(Sums(_counts(items), value))


M_ACC = tuple(
    TextMetric(name, label, partial(_share, *columns), False, needs_phrases=True)
    for name, label, columns in (
        ("m_acc_formal", "M-Acc formal", (0, 1)),
        ("m_acc_counted", "counted by M-Acc", (1, 2)),
    )
)


def _found(text: str, phrases: Sequence[str]) -> bool:
    words = set(text.split())
    return any(words.issuperset(phrase.split()) for phrase in phrases if phrase.split())

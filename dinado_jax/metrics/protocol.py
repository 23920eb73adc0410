"""The interface of a metric of texts: what it reads, and what it returns."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Phrases(NamedTuple):
    """What makes the references of a translation formal, and informal."""

    formal: tuple[str, ...]
    informal: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Item:
    """A prompt with the texts that continue it."""

    prompt: str  # "" if unknown
    texts: tuple[str, ...]  # at least one
    references: tuple[str, ...] = ()
    phrases: Phrases | None = None  # that are marked in two of the references


@dataclasses.dataclass(frozen=True)
class Sums:
    """A metric that is a function of sums over prompts, so that prompts can be drawn again."""

    rows: np.ndarray  # float64 [P, K], of each prompt
    value: Callable[[np.ndarray], np.ndarray]  # sums [N, K] -> values [N]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The values of a metric."""

    value: float  # of all texts; nan if there is none
    per_prompt: np.ndarray  # float64 [P]
    sums: Sums | None = None  # None if the value is no function of sums over prompts
    signature: str = ""  # of the program that computed it

    @classmethod
    def of_sums(cls, sums: Sums, signature: str = "") -> "Measured":
        """The value of all rows together, and of each on its own."""
        total = float(sums.value(sums.rows.sum(0, keepdims=True))[0])
        return cls(total, sums.value(sums.rows), sums, signature)

    @classmethod
    def of_means(cls, values: Sequence[float] | np.ndarray) -> "Measured":
        """The mean over prompts of values [P]."""
        rows = np.stack([np.asarray(values, np.float64), np.ones(len(values))], 1)
        return cls.of_sums(Sums(rows, lambda sums: sums[:, 0] / sums[:, 1]))


@dataclasses.dataclass(frozen=True)
class TextMetric:
    """A metric by its name."""

    name: str
    label: str
    measure: Callable[[Sequence[Item]], Measured]  # of at least one item
    needs_references: bool = True  # at least one for every item
    needs_concepts: bool = False  # in the format of `tasks/keyword/format.py`
    needs_phrases: bool = False  # of every item


def items_of(
    prompts: Sequence[str],
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    phrases: Sequence[Phrases | None] | None = None,
) -> list[Item]:
    """Collects the texts of each prompt.

    Args:
      prompts: [N]; equal ones with equal references are one item, and "" always is one of its own.
      texts: [N].
      references: [N] groups.
      phrases: [N], that are marked in the references; None if none are.

    Returns:
      Items in the order of their first texts.
    """
    found: dict[tuple, list[str]] = {}
    rows = zip(prompts, texts, references, phrases or [None] * len(prompts), strict=True)
    for number, (prompt, text, group, marked) in enumerate(rows):
        key = (prompt, tuple(group), marked, None if prompt else number)
        found.setdefault(key, []).append(text)
    return [
        Item(prompt, tuple(own), group, marked) for (prompt, group, marked, _), own in found.items()
    ]

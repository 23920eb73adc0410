"""Oracles made of the labels of others, which may be graded: and, or, not, product, mean, limit;
and the number of words.

A part is asked only about the texts whose label the parts before it leave open, as by `and` and
`or` of Python. Where a part fails on a text, so does the whole.
"""

import operator
from collections.abc import Callable, Sequence

import numpy as np

from dinado_jax.constraints.counting import count_words
from dinado_jax.oracles.judge import Oracle, answer_of
from dinado_jax.tasks.wanted import all_wanted, any_wanted, wanted_by

THRESHOLDS: dict[str, Callable[..., np.ndarray]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPARISONS = {**THRESHOLDS, "==": operator.eq, "!=": operator.ne}


class Folded:
    """Joins the labels of several oracles from first to last."""

    def __init__(self, name: str, parts: Sequence[Oracle], join: np.ufunc, settled: float):
        """Takes the label `settled`, which no further part can change."""
        self.__qualname__ = name
        self._parts, self._join, self._settled = tuple(parts), join, settled
        joined = any_wanted if join is np.maximum else all_wanted
        self.wanted = joined(list(map(wanted_by, parts)))

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The label of each text, float64 [N], masked where a part masks it."""
        first, *others = self._parts
        labels = answer_of(first, prompts, texts)
        for part in others:
            known = np.ma.getmaskarray(labels) | (np.ma.getdata(labels) == self._settled)
            left = np.flatnonzero(~known).tolist()
            if left:
                more = answer_of(part, [prompts[i] for i in left], [texts[i] for i in left])
                labels[left] = self._join(labels[left], more)
        return labels


class Mean:
    """The weighted mean of the labels of several oracles."""

    def __init__(self, name: str, parts: Sequence[Oracle], weights: Sequence[float]):
        """Takes positive weights, of any sum."""
        self.__qualname__ = name
        self._parts, self._weights = tuple(parts), np.array(weights) / sum(weights)
        self.wanted = all_wanted(list(map(wanted_by, parts)))

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The label of each text, float64 [N], masked where a part masks it."""
        labels = np.ma.array([answer_of(part, prompts, texts) for part in self._parts])
        mask = np.ma.getmaskarray(labels).any(axis=0)
        # Rounded, so that sums of weights compare with limits as in decimals.
        return np.ma.array(np.round(self._weights @ np.ma.getdata(labels), 12), mask=mask)


class WordCount:
    """Whether texts have so many words, where these are too many to count by an automaton."""

    def __init__(self, name: str, comparison: str, count: int):
        """Takes <, <=, >, >=, == or !=."""
        self.__qualname__ = name
        self._holds, self._count = _COMPARISONS[comparison], count

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """bool [N]."""
        return self._holds(np.array(list(map(count_words, texts)), np.int64), self._count)


class Mapped:
    """A function of the label of an oracle: its opposite, or a threshold."""

    def __init__(self, name: str, part: Oracle, function: Callable[[np.ndarray], np.ndarray]):
        self.__qualname__ = name
        self._part, self._function = part, function

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The label of each text, masked where the part masks it."""
        labels = answer_of(self._part, prompts, texts)
        return np.ma.array(self._function(np.ma.getdata(labels)), mask=np.ma.getmask(labels))

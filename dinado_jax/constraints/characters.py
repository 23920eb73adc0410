"""Classes of characters that some regular expressions of one character do not tell apart."""

import functools
import re
import sys
from collections.abc import Sequence

import numpy as np

from dinado_jax.automata.token_texts import PARTIAL


class Characters:
    """A partition of all characters; each class is a symbol, one of its characters.

    It is callable: it replaces the characters of a text by their symbols.
    """

    def __init__(self, tests: Sequence[re.Pattern[str]]):
        """Classifies every code point by the expressions that match it; `PARTIAL` is alone."""
        classes = _matches(re.compile(PARTIAL)).astype(np.int32)
        for test in tests:
            split = 2 * classes + _matches(test)
            classes = (np.cumsum(np.bincount(split) > 0, dtype=np.int32) - 1)[split]
        size = np.bincount(classes)
        first = np.empty(len(size), np.int64)
        first[classes[::-1]] = np.arange(len(classes))[::-1]
        self._class_of = classes
        self._symbol_of = list(map(chr, first))
        # Without `PARTIAL`, and the largest class last.
        order = np.argsort(size, kind="stable")
        self.symbols = "".join(self._symbol_of[i] for i in order).replace(PARTIAL, "")

    def __call__(self, text: str) -> str:
        return "".join(self._symbol_of[self._class_of[ord(character)]] for character in text)


@functools.lru_cache(maxsize=64)
def _matches(test: re.Pattern[str]) -> np.ndarray:
    """bool, of every code point: whether an expression of one character matches it."""
    everything = _everything()
    matches = np.zeros(len(everything), bool)
    for run in re.finditer(f"(?:{test.pattern})+", everything, test.flags):
        matches[run.start() : run.end()] = True
    return matches


@functools.cache
def _everything() -> str:
    return "".join(map(chr, range(sys.maxunicode + 1)))

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
        everything = _everything()
        classes = np.zeros(len(everything), np.int32)
        for test in (re.compile(PARTIAL), *tests):
            matches = np.zeros(len(everything), bool)
            for run in re.finditer(f"(?:{test.pattern})+", everything, test.flags):
                matches[run.start() : run.end()] = True
            split = 2 * classes + matches
            classes = (np.cumsum(np.bincount(split) > 0, dtype=np.int32) - 1)[split]
        _, first, size = np.unique(classes, return_index=True, return_counts=True)
        self._class_of = classes
        self._symbol_of = [everything[place] for place in first]
        # Without `PARTIAL`, and the largest class last.
        order = np.argsort(size, kind="stable")
        self.symbols = "".join(self._symbol_of[i] for i in order).replace(PARTIAL, "")

    def __call__(self, text: str) -> str:
        return "".join(self._symbol_of[self._class_of[ord(character)]] for character in text)


@functools.cache
def _everything() -> str:
    return "".join(map(chr, range(sys.maxunicode + 1)))

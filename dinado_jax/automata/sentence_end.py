"""Whether a sentence of a text has just ended, where language models like to stop."""

import numpy as np

from dinado_jax.automata.automaton import Automaton

_ENDS = ".!?\u2026\u3002\uff01\uff1f\u061f\u06d4\u0964"  # Latin, Chinese, Arabic, Urdu and Hindi
_FOLLOW = "\"'\u201d\u2019\u00bb)]}\uff09\u300d\u300f \t\n"  # quotes, brackets: an end stays one

SENTENCE_END = Automaton(
    symbols=f"{_ENDS}{_FOLLOW}a",
    table=np.array(
        [
            [1] * len(_ENDS) + [0] * len(_FOLLOW) + [0],
            [1] * len(_ENDS) + [1] * len(_FOLLOW) + [0],
        ],
        np.int32,
    ),
    accepting=np.array([True, True]),
    name="the end of a sentence",
)
"""In state 1 a sentence has just ended. It accepts every text: it asks for nothing."""

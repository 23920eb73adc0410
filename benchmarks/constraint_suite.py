"""Oracles of the suite again, as constraints: what `control.state=true` and the guarantee can read.

    python benchmarks/oracle_suite.py --out DIR --oracles constraint_suite:colour \
        --settings control.state=true

The same texts satisfy them as those of `oracle_suite.py` of the same names, up to punctuation
within words.
"""

from oracle_suite import COLOURS, NUMBERS, PLACES, SIZES

from dinado_jax.constraints import any_of_words, at_least_words, at_most_words, pattern, without

ENDS = r"[^a-zA-Z]*"
BEGINS, ANYTHING = r"[^a-zA-Z]*", r"(?s:.*)"


def _any(words: set[str]) -> str:
    return rf"(?i:\b({'|'.join(sorted(words))})\b)"


colour = any_of_words(*sorted(COLOURS))
no_the = without("the")
at_most_8 = at_most_words(8)
at_least_12 = at_least_words(12)
starts_plural = pattern(f"{BEGINS}{_any(NUMBERS)}{ANYTHING}")
ends_with_place = pattern(f"{ANYTHING}{_any(PLACES)}{ENDS}")
size_then_colour = pattern(f"{ANYTHING}{_any(SIZES)}{ANYTHING}{_any(COLOURS)}{ANYTHING}")
colour_and_plural = colour & starts_plural

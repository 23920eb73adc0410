"""Several automata as one: each of its states is a state of every one of them."""

from collections.abc import Sequence

import numpy as np

from dinado_jax.automata.automaton import MOST_TRANSITIONS, TooLarge

MOST_STATES = 2**15 - 1  # a state is an int16 while decoding


def product_table(tables: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Finds what can be reached from the start of all.

    Args:
      tables: int [S_i, A] of each automaton, over the same A symbols or classes.

    Returns:
      int [S, K], the states of each in every joint state, of which 0 is the start of all, and
      int32 [S, A], the joint state after each symbol.

    Raises:
      TooLarge: for more than `MOST_STATES` states, or `MOST_TRANSITIONS` entries of the table.
    """
    sizes = [len(table) for table in tables]
    most = min(MOST_STATES, MOST_TRANSITIONS // tables[0].shape[1])

    def after(codes: np.ndarray) -> np.ndarray:
        parts = np.unravel_index(codes, sizes)
        following = [table[part] for table, part in zip(tables, parts)]
        return np.ravel_multi_index(following, sizes)

    try:
        known = front = np.zeros(1, np.int64)
        while len(front):
            front = np.setdiff1d(after(front), known)
            known = np.union1d(known, front)
            if len(known) > most:
                raise TooLarge(f"together they need more than {most:,} states")
    except ValueError:  # more states than can be numbered
        raise TooLarge("together they need too many states") from None
    states = np.stack(np.unravel_index(known, sizes), 1)
    return states, np.searchsorted(known, after(known)).astype(np.int32)

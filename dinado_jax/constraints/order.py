"""The automaton of texts in which one thing is found after another."""

import dataclasses

from dinado_jax.automata.automaton import Automaton, explore
from dinado_jax.tasks.keyword.symbols import HYPHEN, OTHER, SPACE

_State = tuple[int, frozenset[int]]


def followed_by(first: Automaton, second: Automaton) -> Automaton:
    """Accepts a text of two parts, each accepted by one automaton of words.

    The second part begins with what ends a word: a space, a hyphen or punctuation. It is followed
    from there on while the first automaton accepts, which is not certain before that automaton has
    read on: what seemed to be a word may be part of a negation, and then it begins again.

    Raises:
      TooLarge: see `explore`.
    """
    named = dict.fromkeys(first.symbols[:-1] + second.symbols[:-1] + first.symbols[-1:])
    # -1, the last one, for a symbol that it does not name.
    columns = [{symbol: each.symbols.find(symbol) for symbol in named} for each in (first, second)]
    found, certain = first.settled, second.settled

    def step(state: _State, symbol: str) -> _State:
        at, parts = state
        after = int(first.table[at, columns[0][symbol]])
        if not first.accepting[after]:
            return after, frozenset()
        begun = set(parts)
        if first.accepting[at] and symbol in (SPACE, HYPHEN, OTHER) and not (found[at] and parts):
            begun.add(0)
        new = second.table[list(begun), columns[1][symbol]] if begun else ()
        ended = [int(each) for each in new if certain[each]]
        return after, frozenset(ended[:1] or map(int, new))

    automaton = explore(
        (0, frozenset()),
        step,
        lambda state: bool(first.accepting[state[0]]) and any(second.accepting[list(state[1])]),
        "".join(named),
    )
    return dataclasses.replace(automaton, read=first.read)

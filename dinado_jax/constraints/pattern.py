"""Regular expressions as constraints: `re.fullmatch` of the text without white space around it.

Python's own parser reads them, and Python's own `re` says which characters each of their parts
matches, so that verdicts are those of `re` on all of Unicode, with any flags. Packages that make
automata of regular expressions (greenery, interegular) have dialects of their own, without anchors
and flags, and know the letters of ASCII alone.
"""

import dataclasses
import functools
import re
import warnings
from re import _parser as parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

from dinado_jax.automata.automaton import Automaton, TooLarge, explore
from dinado_jax.automata.logic import with_partial
from dinado_jax.constraints.characters import Characters
from dinado_jax.constraints.constraint import Constraint, limits
from dinado_jax.errors import InputError, quote

MOST_STEPS = 2**14  # of an expression with its repetitions written out
MOST_SEEN = 2**22  # of an automaton's states, once for each symbol: some seconds of work
_UNSUPPORTED = {
    "ASSERT": "lookaround",
    "ASSERT_NOT": "lookaround",
    "FAILURE": "lookaround",
    "ATOMIC_GROUP": "an atomic group",
    "GROUPREF": "a backreference",
    "GROUPREF_EXISTS": "a conditional group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
}
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
_PLACES = {
    "AT_BEGINNING": "^",
    "AT_BEGINNING_STRING": r"\A",
    "AT_BOUNDARY": r"\b",
    "AT_NON_BOUNDARY": r"\B",
    "AT_END": "$",
    "AT_END_STRING": r"\Z",
}
_WORD, _LINE_END, _SPACE = re.compile(r"\w"), re.compile(r"\n"), re.compile(r"\s")
_FLAGS = re.IGNORECASE | re.ASCII | re.DOTALL | re.MULTILINE


def pattern(expression: str) -> Constraint:
    """Satisfied by texts that match a regular expression as a whole, as `re.fullmatch` does.

    White space around a text does not count. All that Python's `re` reads is supported, flags such
    as "(?i)" too, except for what no automaton can do or what makes a match depend on the order in
    which it is sought: lookaround, backreferences, conditional and atomic groups, possessive
    repetitions.

    Raises:
      InputError: for an expression that `re` cannot read, that has one of these, that no text
        matches, or whose automaton is larger than its limit.
    """
    automaton = _automaton(expression)
    return Constraint(automaton.name, ((automaton,),))


@functools.cache
def _automaton(expression: str) -> Automaton:
    name = f"pattern({quote(expression)})"
    steps = _Steps(name)
    with limits(name):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)  # what re may read otherwise one day
                parsed = parser.parse(expression)
            start = steps.sequence(parsed, steps.end, parsed.state.flags)
        except (re.error, OverflowError, RecursionError, FutureWarning) as error:
            raise InputError(f"{name}, {error}: write it as for Python's re") from None
        beside = [_SPACE, _LINE_END, _WORD, re.compile(_WORD.pattern, re.ASCII)]
        characters = Characters([*beside, *steps.tests])
        whole = _stripped(_explored(steps, start, characters.symbols))
        return with_partial(dataclasses.replace(whole, read=characters, name=name))


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step of a match: to one of `following` without reading a character, or after one that
    `test` matches, or where the position satisfies `place`.
    """

    following: tuple[int, ...] = ()
    test: re.Pattern[str] | None = None
    place: re.Pattern[str] | None = None


class _Steps:
    """All steps of an expression by number, made from its end to its beginning."""

    def __init__(self, name: str):
        self._name = name
        self._steps = [_Step()]
        self.end = 0

    def __getitem__(self, number: int) -> _Step:
        return self._steps[number]

    @property
    def tests(self) -> list[re.Pattern[str]]:
        """All tests of characters, each of them once."""
        return list({step.test: None for step in self._steps if step.test})

    def sequence(self, items: Any, then: int, flags: int) -> int:
        """Adds parsed items one after another; returns where they begin."""
        for operation, argument in reversed(list(items)):
            then = self._item(str(operation), argument, then, flags)
        return then

    def _item(self, operation: str, argument: Any, then: int, flags: int) -> int:
        if operation in _UNSUPPORTED:
            raise InputError(
                f"{self._name}, {_UNSUPPORTED[operation]}: an automaton cannot do that, write it "
                "without"
            )
        if operation in ("MAX_REPEAT", "MIN_REPEAT"):  # lazy or not, the texts are the same
            least, most, item = argument
            return self._repeat(item, least, most, then, flags)
        if operation == "SUBPATTERN":
            _, added, removed, item = argument
            return self.sequence(item, then, (flags | added) & ~removed)
        if operation == "BRANCH":
            return self._added(
                _Step(tuple(self.sequence(item, then, flags) for item in argument[1]))
            )
        if operation == "AT":
            place = re.compile(_PLACES[str(argument)], flags & _FLAGS)
            return self._added(_Step((then,), place=place))
        test = re.compile(_of_one_character(operation, argument), flags & _FLAGS)
        return self._added(_Step((then,), test=test))

    def _repeat(self, item: Any, least: int, most: int, then: int, flags: int) -> int:
        if most == parser.MAXREPEAT:
            loop = self._added(_Step())
            self._steps[loop] = _Step((self.sequence(item, loop, flags), then))
            then = loop
        else:
            end = then  # to which every repetition may go at once
            for _ in range(most - least):
                then = self._added(_Step((self.sequence(item, then, flags), end)))
        for _ in range(least):
            then = self.sequence(item, then, flags)
        return then

    def _added(self, step: _Step) -> int:
        if len(self._steps) == MOST_STEPS:
            raise TooLarge(f"it has more than {MOST_STEPS:,} steps, repetitions written out")
        self._steps.append(step)
        return len(self._steps) - 1


def _of_one_character(operation: str, argument: Any) -> str:
    """An expression for what one parsed item matches."""
    if operation == "ANY":
        return "."
    if operation == "IN":
        negated = "^" if str(argument[0][0]) == "NEGATE" else ""
        return f"[{negated}{''.join(_within_class(*each) for each in argument)}]"
    return f"[{'^' if operation == 'NOT_LITERAL' else ''}{_escaped(argument)}]"


def _within_class(operation: Any, argument: Any) -> str:
    if str(operation) == "NEGATE":
        return ""
    if str(operation) == "CATEGORY":
        return _CATEGORIES[str(argument)]
    if str(operation) == "RANGE":
        return "-".join(map(_escaped, argument))
    return _escaped(argument)


def _escaped(code: int) -> str:
    return f"\\U{code:08x}"


def _explored(steps: _Steps, start: int, symbols: str) -> Automaton:
    """The automaton of an expression: a state is where a match may be before the places are known
    that the next character decides, with what matters of the character before.
    """
    matches = {
        test: frozenset(symbol for symbol in symbols if test.match(symbol)) for test in steps.tests
    }

    seen = 0

    def without_reading(at: frozenset[int], before: str, after: str) -> set[int]:
        nonlocal seen
        found = _without_reading(steps, at, before, after)
        seen += len(found)
        if seen > MOST_SEEN:
            raise TooLarge(f"its states hold more than {MOST_SEEN:,} steps together")
        return found

    def advanced(state: tuple[str, frozenset[int]], symbol: str) -> tuple[str, frozenset[int]]:
        before, at = state
        following = set()
        for number in without_reading(at, before, symbol):
            test = steps[number].test
            if test and symbol in matches[test]:
                following.update(steps[number].following)
        return _kind(symbol), frozenset(following)

    def accepts(state: tuple[str, frozenset[int]]) -> bool:
        before, at = state
        return steps.end in without_reading(at, before, "")

    return explore(("", frozenset([start])), advanced, accepts, symbols)


def _kind(symbol: str) -> str:
    """A character that every place takes for this one."""
    if symbol == "\n":
        return symbol
    return "a" if symbol.isascii() and _WORD.match(symbol) else "é" if _WORD.match(symbol) else "."


def _without_reading(steps: _Steps, at: frozenset[int], before: str, after: str) -> set[int]:
    """All steps that a match may be at between two characters; "" is an end of the text."""
    # "$" also matches before a new line that ends a text; texts without white space have none.
    around = before + after + "." if after else before
    reached, front = set(at), list(at)
    while front:
        step = steps[front.pop()]
        if step.test or (step.place and not step.place.match(around, len(before))):
            continue
        new = set(step.following) - reached
        reached |= new
        front += new
    return reached


def _stripped(automaton: Automaton) -> Automaton:
    """Accepts a text where the automaton accepts it without the white space around it.

    A state is that after the last character so far that is not white space, and that after all.
    """
    number = {symbol: i for i, symbol in enumerate(automaton.symbols)}

    def step(state: tuple[int, int, bool], symbol: str) -> tuple[int, int, bool]:
        last, now, begun = state
        if symbol.isspace():
            return (last, int(automaton.table[now, number[symbol]]), True) if begun else state
        after = int(automaton.table[now, number[symbol]])
        return after, after, True

    return explore(
        (0, 0, False), step, lambda state: bool(automaton.accepting[state[0]]), automaton.symbols
    )

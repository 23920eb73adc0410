"""Expressions of oracles, as in a configuration: `keywords & length <= 20 & !contains('not')`.

Where automata decide every part, they decide the whole: it is then a constraint, or keeps the
automata of its parts. Otherwise labels are combined (combined.py). Both agree where both apply: and
is the least label, or the greatest, not C is 1 - C.
"""

import difflib
import functools
import inspect
import math
import operator
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dinado_jax.automata.compiled import AutomataOf
from dinado_jax.automata.logic import accepts_all
from dinado_jax.constraints.constraint import AllOf, AnyOf, Constraint
from dinado_jax.constraints.counting import MOST_WORDS, at_least_words, at_most_words
from dinado_jax.constraints.ends import ends_with, starts_with
from dinado_jax.constraints.pattern import pattern
from dinado_jax.constraints.words import any_of_words, contains, in_order, without
from dinado_jax.errors import InputError, quote
from dinado_jax.oracles.classifier import CLASSIFIER, classifier_oracle
from dinado_jax.oracles.combined import THRESHOLDS, Folded, Mapped, Mean, WordCount
from dinado_jax.oracles.grammar import Source
from dinado_jax.oracles.judge import Oracle
from dinado_jax.oracles.table import FORMS, GIVEN, ORACLES, NamedOracle, registered, resolve

if TYPE_CHECKING:
    from lark import Token, Tree

# Each makes an oracle of texts in quotes, and of options that are true or false. An oracle that
# reads a file has an attribute `digest`, the SHA-256 of what it read.
ELEMENTS: dict[str, Callable[..., Oracle]] = {
    "contains": contains,
    "any_of_words": any_of_words,
    "without": without,
    "in_order": in_order,
    "starts_with": starts_with,
    "ends_with": ends_with,
    "pattern": pattern,
    "classifier": classifier_oracle,
}
COMBINATIONS = ("product", "mean")
KEYWORDS, LENGTH = "keywords", "length"
_ALIASES = {KEYWORDS: "lexical"}
_MOST_DIGITS = 9
_NAME = re.compile(r"""[^\s&|!()<>=*,'"]*""")
_FILE = re.compile(r"""[^&|!()<>=*,'"]+\.py:\w+""")
_FLAGS = {"true": True, "True": True, "false": False, "False": False}


def find_oracle(text: str, noun: str = "oracle") -> NamedOracle:
    """Finds an oracle, or a feature, by its name, or makes it of an expression.

    Args:
      text: a name, see `resolve`; or an expression, see docs/expressions.md.
      noun: what is looked for, in messages.

    Raises:
      InputError: if there is none of that name; for an expression that is none, with a name that is
        unknown, or that certainly no text or every text satisfies.
    """
    if _is_name(text):
        if not (":" in text or _was_given(text) or text in ORACLES or text in registered()):
            raise InputError(f"{noun} {quote(text)}, no such {noun}: {_hint(text)}")
        return resolve(text, noun)
    source = Source(text, noun)
    found = _Maker(source).made(source.parse())
    if isinstance(found.function, Constraint) and _certain(found.function):
        raise source.error(0, "every text satisfies it, so that it asks for nothing: correct it")
    return found


def find_automata(oracle: Any) -> AutomataOf | None:
    """What makes the automata of an oracle, given as an object or by its name or an expression;
    None for one that is not decided by automata. InputError as `find_oracle`.
    """
    found = find_oracle(oracle).function if isinstance(oracle, str) else oracle
    return getattr(found, "automata", None)


def is_own(text: str) -> bool:
    """Whether the oracle of a name or an expression is made of nothing but this package's own,
    without code or files from elsewhere.
    """
    if _is_name(text):
        return text in ORACLES
    try:
        tree = Source(text, "oracle").parse()
    except InputError:
        return False
    known = {*ORACLES, KEYWORDS, LENGTH}
    names = (str(each.children[0]) for each in tree.find_data("name"))
    elements = (str(each.children[0]) for each in tree.find_data("element"))
    return all(name in known for name in names) and "classifier" not in elements


def _is_name(text: str) -> bool:
    """Whether it is a name, and no expression."""
    own = text in (*_ALIASES, *ELEMENTS, *COMBINATIONS, LENGTH)
    # Of paths with spaces or parentheses what is there decides.
    in_file = _FILE.fullmatch(text) and os.path.isfile(text.rpartition(":")[0])
    a_folder = text.startswith(CLASSIFIER) and os.path.isdir(text.removeprefix(CLASSIFIER))
    return not own and bool(_NAME.fullmatch(text) or in_file or a_folder or _was_given(text))


def _was_given(text: str) -> bool:
    """Whether it is the name of an oracle that was given as an object."""
    return text.startswith(f"{GIVEN} ")


def _certain(constraint: Constraint) -> bool:
    return all(map(accepts_all, constraint.automata("")))


class _Maker:
    """Makes the oracle of each part of an expression."""

    def __init__(self, source: Source):
        self._source = source

    def made(self, tree: "Tree") -> NamedOracle:
        """The oracle of a part, by the rule of the grammar that it matches."""
        match tree.data:
            case "any" | "all":
                return self._joined(tree, [self.made(child) for child in tree.children])
            case "not":
                return self._opposite(tree, self.made(tree.children[0]))
            case "compare":
                return self._compared(tree)
            case "name":
                return self._named(cast("Token", tree.children[0]))
            case "element":
                return self._element(tree)
        return self._combination(tree)

    def _error(self, part: Any, message: str) -> InputError:
        """The error for a tree or a token, with its position."""
        return self._source.error(getattr(part, "meta", part).start_pos, message)

    def _no_such(self, kind: str, name: str) -> str:
        """The error for a name with parentheses that is none of that kind."""
        if name == LENGTH:
            return "length is a number of words: compare it, as length <= 20"
        if name in (KEYWORDS, *ORACLES, *registered()):
            return f"{name} takes nothing in parentheses: write {name}"
        return f"{quote(name)}, no such {kind}: {_hint(name)}"

    def _checked(self, tree: "Tree", make: Callable[..., Any], *args: Any, **more: Any) -> Oracle:
        """Makes an oracle; what is wrong with it is told with its place."""
        try:
            return make(*args, **more)
        except InputError as error:
            raise self._error(tree, str(error)) from None

    def _joined(self, tree: "Tree", parts: Sequence[NamedOracle]) -> NamedOracle:
        name, functions = self._source.of(tree), [part.function for part in parts]
        both = tree.data == "all"
        if any(part.automata_of is None for part in parts):
            join, settled = (np.minimum, 0.0) if both else (np.maximum, 1.0)
            return NamedOracle(name, Folded(name, functions, join, settled), parts=tuple(parts))
        constraints = [each for each in functions if isinstance(each, Constraint)]
        others: list[Any] = [each for each in functions if not isinstance(each, Constraint)]
        if constraints:
            join = operator.and_ if both else operator.or_
            others.append(self._checked(tree, functools.reduce, join, constraints))
        whole = (AllOf if both else AnyOf)(*others) if len(others) > 1 else others[0]
        return NamedOracle(name, whole, parts=tuple(parts))

    def _opposite(self, tree: "Tree", part: NamedOracle) -> NamedOracle:
        name, function = self._source.of(tree), part.function
        if isinstance(function, Constraint):
            whole = self._checked(tree, operator.invert, function)
        else:  # automata of other oracles need not accept all that satisfies them
            whole = Mapped(name, function, lambda label: 1 - label)
        return NamedOracle(name, whole, parts=(part,))

    def _compared(self, tree: "Tree") -> NamedOracle:
        atom, comparison, number = cast(Any, tree.children)
        if atom.data == "name" and atom.children[0] == LENGTH:
            if "." in number:
                raise self._error(number, f"a number of words, not {number}: give a whole number")
            if len(number) > _MOST_DIGITS:
                raise self._error(number, "no text has so many words: give a smaller number")
            oracle = self._checked(tree, _length, comparison, int(number))
            return NamedOracle(self._source.of(tree), oracle)
        part, limit = self.made(atom), float(number)
        if isinstance(part.function, Constraint) or part.built_in:
            raise self._error(
                tree,
                f"{self._source.of(atom)} is true or false: leave out {comparison} {number}",
            )
        if comparison not in THRESHOLDS:
            raise self._error(
                comparison, "labels are compared by <, <=, > or >=: write one of them"
            )
        above = THRESHOLDS[comparison]
        if above(0, limit) == above(1, limit):
            often = "every" if above(0, limit) else "no"
            raise self._error(
                number, f"labels are in [0, 1], so that {often} text satisfies it: correct {number}"
            )
        name = self._source.of(tree)
        return NamedOracle(
            name, Mapped(name, part.function, lambda label: above(label, limit)), parts=(part,)
        )

    def _named(self, token: "Token") -> NamedOracle:
        name = _ALIASES.get(token, str(token))
        if name == LENGTH:
            raise self._error(token, "length is a number of words: compare it, as length <= 20")
        if name in COMBINATIONS:
            raise self._error(token, f"{name} combines oracles: write {name}(keywords, ..)")
        if name in ELEMENTS:
            raise self._error(token, f"{name} takes texts in quotes: write {name}('..')")
        if ":" not in name and name not in ORACLES and name not in registered():
            raise self._error(token, f"{quote(name)}, no such {self._source.noun}: {_hint(name)}")
        return resolve(name, self._source.noun)

    def _element(self, tree: "Tree") -> NamedOracle:
        token, *given = cast(Any, tree.children)
        name, texts, options = str(token), [], {}
        for each in filter(None, given):
            if not hasattr(each, "data"):
                texts.append(str(each)[1:-1])
                continue
            key, value = map(str, each.children)
            if key in options:
                raise self._error(each, f"{key} is there twice: leave out one")
            if value not in _FLAGS:
                raise self._error(each, f"{key} = {value}: it must be true or false")
            options[key] = _FLAGS[value]
        if name not in ELEMENTS:
            if name in COMBINATIONS:
                raise self._error(token, f"{name} combines oracles: write {name}(keywords, ..)")
            raise self._error(token, self._no_such("element", name))
        make = ELEMENTS[name]
        try:
            inspect.signature(make).bind(*texts, **options)
        except TypeError as error:
            raise self._error(tree, f"{name}{_signature(make)}: {error}") from None
        function = self._checked(tree, make, *texts, **options)
        return NamedOracle(self._source.of(tree), function, getattr(function, "digest", ""))

    def _combination(self, tree: "Tree") -> NamedOracle:
        token, *given = cast(Any, tree.children)
        if token in ELEMENTS:
            raise self._error(token, f"{token} takes texts in quotes: write {token}('..')")
        if token not in COMBINATIONS:
            raise self._error(token, self._no_such("combination", str(token)))
        weights = [each.children[0] for each in given]
        parts = [self.made(each.children[1]) for each in given]
        functions, name = [part.function for part in parts], self._source.of(tree)
        if token == "product":
            for weight in filter(None, weights):
                raise self._error(
                    weight, "a product has no weights: leave it out, or write mean(..)"
                )
            whole = Folded(name, functions, np.multiply, 0.0)
        else:
            numbers = [float(weight or 1) for weight in weights]
            if not all(numbers):
                raise self._error(tree, "a weight of 0: leave out what has it")
            if not math.isfinite(sum(numbers)):
                raise self._error(tree, "weights are too large for their sum: give smaller ones")
            whole = Mean(name, functions, numbers)
        return NamedOracle(name, whole, parts=tuple(parts))


def _length(comparison: str, count: int) -> Oracle:
    if count > MOST_WORDS:
        return WordCount(f"{LENGTH} {comparison} {count}", comparison, count)
    match comparison:
        case "<=":
            return at_most_words(count)
        case "<":
            return at_most_words(count - 1)
        case ">=":
            return at_least_words(count)
        case ">":
            return at_least_words(count + 1)
    exactly = at_most_words(0) if count == 0 else at_least_words(count) & at_most_words(count)
    return exactly if comparison == "==" else ~exactly


def _signature(make: Callable[..., Oracle]) -> str:
    """The arguments of an element, as a user writes them."""
    known = inspect.signature(make).parameters.values()
    named = (f"{each.name}=false" if each.default is False else "'..'" for each in known)
    return f"({', '.join(named)})"


def _hint(name: str) -> str:
    if name.endswith(".py"):
        return f"add the name of its function, {name}:FUNCTION"
    known = [KEYWORDS, LENGTH, *ELEMENTS, *COMBINATIONS, *ORACLES, *registered()]
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"give {FORMS}" if "." in name else f"one of {', '.join(known)}"

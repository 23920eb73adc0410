"""The grammar of expressions of oracles, and its errors in one line."""

import functools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dinado_jax.errors import InputError, quote

if TYPE_CHECKING:
    from lark import Lark, Tree

_GRAMMAR = r"""
?any: all (_or all)*
?all: opposite (_and opposite)*
?opposite: _not opposite -> not
         | compared
?compared: atom
         | atom COMPARISON NUMBER -> compare
?atom: "(" any ")"
     | NAME -> name
     | CALLABLE -> name
     | NAME "(" [_text ("," _text)*] ")" -> element
     | NAME "(" weighted ("," weighted)* ")" -> combination
_text: STRING | option
option: NAME "=" NAME
weighted: [NUMBER "*"] any

_or: "|" | "or"
_and: "&" | "and"
_not: "!" | "not"

COMPARISON: "<=" | ">=" | "==" | "!=" | "<" | ">"
STRING: /'[^']*'|"[^"]*"/
NUMBER: /\d+(\.\d+)?/
CALLABLE.2: /[\w.~\/-]+:[^\W\d]\w*/
NAME: /[^\W\d][\w.~\/-]*/
%ignore /\s+/
"""
_MEANING = {  # of terminals, in messages
    "BANG": "'!'",
    "NOT": "'!'",
    "LPAR": "'('",
    "NAME": "a name",
    "CALLABLE": "a name",
    "STRING": "a text in quotes",
    "NUMBER": "a number",
    "RPAR": "')'",
    "COMMA": "','",
    "EQUAL": "'='",
    "STAR": "'*'",
    "VBAR": "'|'",
    "OR": "'|'",
    "AMPERSAND": "'&'",
    "AND": "'&'",
    "COMPARISON": "a comparison",
    "$END": "the end",
}
_HINTS = {  # for what is written often, but no part of the grammar
    **dict.fromkeys("\u2018\u2019\u201c\u201d", ": write quotation marks as ' or \""),
    "&&": ": write & once",
    "||": ": write | once",
    **dict.fromkeys(("=<", "=>", "= "), ": comparisons are <, <=, ==, !=, >= and >"),
}
_DEEPEST = 50
_LONGEST = 10_000


class Source:
    """An expression as it is written, for messages."""

    def __init__(self, text: str, noun: str):
        """Takes the noun of what the expression is, in messages."""
        self.text, self.noun = text, noun

    def error(self, position: int, message: str) -> InputError:
        """An error at a position, counted from 0 and told from 1."""
        return InputError(f"{self.noun} {quote(self.text)}, character {position + 1}: {message}")

    def of(self, tree: "Tree") -> str:
        """What a part is written as."""
        meta = tree.meta
        return " ".join(self.text[meta.start_pos : meta.end_pos].split())

    def parse(self) -> "Tree":
        """Parses the expression.

        Raises:
          InputError: for one that is not in the grammar, too long or nested too deeply.
        """
        from lark.exceptions import UnexpectedCharacters, UnexpectedToken

        if len(self.text) > _LONGEST:
            raise self.error(_LONGEST, f"longer than {_LONGEST:,} characters: write it in Python")
        try:
            tree = _parser().parse(self.text)
        except UnexpectedCharacters as error:
            raise self._unexpected(error.pos_in_stream) from None
        except UnexpectedToken as error:
            at_end = error.token.type == "$END"
            raise self._unexpected(len(self.text) if at_end else error.token.start_pos) from None
        self._check_depth(tree)
        return tree

    def _unexpected(self, position: int) -> InputError:
        found = self.text[position : position + 1]
        if found in ("'", '"') and self.text.count(found, position) == 1:
            return self.error(position, f"a text that does not end: add another {found}")
        parser = _parser().parse_interactive(self.text[:position])
        parser.exhaust_lexer()
        found = quote(found) if found else "the end"
        written = [self.text[position - a : position + b] for a, b in ((0, 1), (1, 1), (0, 2))]
        hint = next((_HINTS[each] for each in written if each in _HINTS), "")
        if re.search(r"classifier:[^\s&|()]*$", self.text[:position]):
            hint = ": within an expression write classifier('FOLDER')"
        return self.error(position, f"expected {_listed(parser.accepts())}, not {found}{hint}")

    def _check_depth(self, tree: "Tree") -> None:
        depth = {}
        for each in tree.iter_subtrees():  # from the innermost on
            inner = (depth.get(id(child), 0) for child in each.children)
            depth[id(each)] = 1 + max(inner, default=0)
            if depth[id(each)] > _DEEPEST:
                raise self.error(
                    each.meta.start_pos,
                    f"nested more than {_DEEPEST} levels deep: write it with fewer",
                )


def _listed(terminals: Iterable[str]) -> str:
    """What terminals are, each once, in the order of `_MEANING`."""
    known = set(terminals)
    names = list(dict.fromkeys(meaning for name, meaning in _MEANING.items() if name in known))
    return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


@functools.cache
def _parser() -> "Lark":
    from lark import Lark

    return Lark(_GRAMMAR, start="any", parser="lalr", propagate_positions=True)

"""Oracles by name: those of this package, and any function that can be imported."""

import dataclasses
import importlib
import os
import sys
from collections.abc import Mapping
from typing import cast

from dinado_jax.automata.compiled import AutomataOf
from dinado_jax.errors import InputError, quote
from dinado_jax.oracles.foreign import ForeignError, guarded
from dinado_jax.oracles.judge import Oracle
from dinado_jax.oracles.sentences import at_most_12_words, ends_with_question, mentions_colour
from dinado_jax.tasks.keyword.oracle import LEXICAL
from dinado_jax.tasks.protocol import WantedIn

# Each raises InputError for a prompt that it cannot judge with any text.
ORACLES: dict[str, Oracle] = {
    "lexical": LEXICAL,
    "mentions_colour": mentions_colour,
    "ends_with_question": ends_with_question,
    "at_most_12_words": at_most_12_words,
}
GIVEN = "callable"  # begins the name of an oracle that was given as an object


@dataclasses.dataclass(frozen=True)
class NamedOracle:
    """An oracle with its name in `rollout.oracle`, or a feature with that in `target.moments`."""

    name: str
    function: Oracle
    code: str = ""  # SHA-256 of its code, if it was given as an object

    @property
    def built_in(self) -> bool:
        """Whether it belongs to this package."""
        return self.name in ORACLES

    @property
    def automata_of(self) -> AutomataOf | None:
        """The automata that decide it for a prompt; None for an oracle that is not decided so."""
        return getattr(self.function, "automata", None)

    @property
    def wanted_in(self) -> WantedIn | None:
        """What it wants of a text; None for an oracle that does not say."""
        return getattr(self.function, "wanted", None) if self.built_in else None

    def check_prompts(self, prompts: Mapping[str, str]) -> None:
        """Checks that a built-in oracle can judge these prompts, keyed by where they were read.

        Raises:
          InputError: for the first prompt that it cannot judge.
        """
        for where, prompt in prompts.items() if self.built_in else ():
            try:
                self.function([prompt], [""])
            except InputError as error:
                raise InputError(f"{where}, {error}") from None


def resolve(name: str, noun: str = "oracle") -> NamedOracle:
    """Finds the oracle, or the feature, of that name.

    Args:
      name: a name of `ORACLES`, or "package.module:function", which is imported, also from the
        current working directory.
      noun: what is looked for, in messages.

    Raises:
      InputError: if there is none.
    """
    return NamedOracle(name, ORACLES.get(name) or _imported(name, noun))


def _imported(name: str, noun: str) -> Oracle:
    if name.startswith(f"{GIVEN} "):
        raise InputError(
            f"{noun} {quote(name)} was given to dinado_jax.fit and has no name to import it by: "
            "call fit again, with the folder of this run"
        )
    module_name, _, function = name.partition(":")
    if not module_name or not function:
        known = ", ".join(f'"{one}"' for one in ORACLES)
        raise InputError(
            f'{noun} {quote(name)}, no such {noun}: give {known} or "package.module:function"'
        )
    # The console script, unlike python -m, does not look for modules in the working directory. It
    # comes last, so that a file there hides no module that a library imports later.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        with guarded():
            module = importlib.import_module(module_name)
    except ForeignError as error:
        raise InputError(
            f"{noun} {quote(name)}, importing {module_name} raised {error}: "
            "correct the name or install the module"
        ) from None
    try:
        with guarded():
            oracle = getattr(module, function, None)
            found = callable(oracle)
    except ForeignError as error:
        raise InputError(
            f"{noun} {quote(name)}, looking up {function} raised {error}: correct the module"
        ) from None
    if not found:
        raise InputError(
            f"{noun} {quote(name)}, {module_name} has no function {function}: correct the name"
        )
    return cast(Oracle, oracle)

"""Oracles by name: those of this package, and any function that can be imported."""

import dataclasses
import difflib
import functools
import importlib.metadata
import importlib.util
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from dinado_jax.automata.compiled import AutomataOf
from dinado_jax.errors import InputError, quote
from dinado_jax.oracles.address import ADDRESS
from dinado_jax.oracles.classifier import CLASSIFIER, classifier_oracle
from dinado_jax.oracles.foreign import ForeignError, guarded
from dinado_jax.oracles.judge import Oracle
from dinado_jax.oracles.sentences import at_most_12_words, ends_with_question, mentions_colour
from dinado_jax.tasks.keyword.oracle import LEXICAL
from dinado_jax.tasks.protocol import WantedIn
from dinado_jax.tasks.wanted import wanted_by
from dinado_jax.utils.files import check_regular

# Each raises InputError for a prompt that it cannot judge with any text.
ORACLES: dict[str, Oracle] = {
    "lexical": LEXICAL,
    "mentions_colour": mentions_colour,
    "ends_with_question": ends_with_question,
    "at_most_12_words": at_most_12_words,
    **ADDRESS,
}
FORMS = '"package.module:function" or "FILE.py:function"'
GROUP = "dinado_jax.oracles"  # of entry points, by which a package gives its oracles names
GIVEN = "callable"  # begins the name of an oracle that was given as an object


@dataclasses.dataclass(frozen=True)
class NamedOracle:
    """An oracle with its name in `rollout.oracle`, or a feature with that in `target.moments`."""

    name: str
    function: Oracle
    # SHA-256 of what it does, where no module says that: of one given as an object, of a classifier
    code: str = ""
    parts: tuple["NamedOracle", ...] = ()  # what it is made of

    @property
    def built_in(self) -> bool:
        """Whether it belongs to this package."""
        return self.name in ORACLES

    @property
    def automata_of(self) -> AutomataOf | None:
        """The automata that decide it for a prompt; None for an oracle that is not decided so."""
        return getattr(self.function, "automata", None)

    @property
    def classifiers(self) -> frozenset[str]:
        """The SHA-256 of each classifier that it is made of."""
        own = getattr(self.function, "classifiers", frozenset())
        return own.union(*(part.classifiers for part in self.parts))

    @property
    def wanted_in(self) -> WantedIn | None:
        """What it wants of a text; None for an oracle that does not say."""
        return wanted_by(self.function)

    @property
    def undecided(self) -> str:
        """The name of the first part that no automata decide; "" if they decide all of it."""
        if self.automata_of is not None:
            return ""
        return next((name for part in self.parts if (name := part.undecided)), self.name)

    def mentions(self, name: str) -> bool:
        """Whether it is the oracle of that name, or made of it."""
        return self.name == name or any(part.mentions(name) for part in self.parts)

    def check_prompts(self, prompts: Mapping[str, str]) -> None:
        """Checks that a built-in oracle, and those among its parts, can judge these prompts, keyed
        by where they were read.

        Raises:
          InputError: for the first prompt that one cannot judge.
        """
        for part in self.parts:
            part.check_prompts(prompts)
        for where, prompt in prompts.items() if self.built_in else ():
            try:
                self.function([prompt], [""])
            except InputError as error:
                raise InputError(f"{where}, {error}") from None


def resolve(name: str, noun: str = "oracle") -> NamedOracle:
    """Finds the oracle, or the feature, of that name.

    Args:
      name: a name of `ORACLES`, or one that an installed package has registered, or
        "package.module:function", which is imported, also from the current working directory, or
        "FILE.py:function", or "classifier:FOLDER".
      noun: what is looked for, in messages.

    Raises:
      InputError: if there is none.
    """
    if name in ORACLES:
        return NamedOracle(name, ORACLES[name])
    if name.startswith(CLASSIFIER):
        oracle = classifier_oracle(name.removeprefix(CLASSIFIER))
        return NamedOracle(name, oracle, oracle.digest)
    there = registered().get(name)
    if there is None:
        return NamedOracle(name, _imported(name, noun, f"{noun} {quote(name)}"))
    if len(there) > 1:
        raise InputError(
            f"{noun} {quote(name)} is registered as {' and as '.join(there)}: write the one "
            "that is meant"
        )
    what = f"{noun} {quote(name)}, registered as {quote(there[0])}"
    part = NamedOracle(there[0], _imported(there[0], noun, what))
    return NamedOracle(name, part.function, parts=(part,))


def registered() -> dict[str, list[str]]:
    """The oracles that installed packages have registered: every "package.module:function" of a
    name.
    """
    found: dict[str, list[str]] = {}
    for each in importlib.metadata.entry_points(group=GROUP):
        where = each.value.partition("[")[0].strip()  # behind it are extras of the package
        if where not in found.setdefault(each.name, []):
            found[each.name].append(where)
    return found


def _imported(name: str, noun: str, what: str) -> Oracle:
    """Imports an oracle; messages begin with `what` it is."""
    if name.startswith(f"{GIVEN} "):
        raise InputError(
            f"{what} was given to dinado_jax.fit and has no name to import it by: "
            "call fit again, with the folder of this run"
        )
    module_name, _, function = name.partition(":")
    if not module_name or not function:
        hint = f"give {FORMS}"
        if _is_file(module_name):
            hint = f"add the name of its function, {module_name}:FUNCTION"
        raise InputError(f"{what}, no such {noun}: {hint}")
    if _is_file(module_name):
        check_regular(Path(module_name))
    try:
        with guarded():
            module = _module(module_name)
    except ForeignError as error:
        missing = error.kind == "ModuleNotFoundError" and f"'{module_name}'" in str(error)
        fix = "correct the name or install the module" if missing else f"correct {module_name}"
        raise InputError(f"{what}, importing {module_name} raised {error}: {fix}") from None
    try:
        with guarded():
            oracle = functools.reduce(_attribute, function.split("."), module)
            found = callable(oracle)
            others = [one for one, value in vars(module).items() if callable(value)]
    except ForeignError as error:
        raise InputError(
            f"{what}, looking up {function} raised {error}: correct the module"
        ) from None
    if not found and oracle is not None:
        raise InputError(f"{what}, {function} is {quote(oracle)}: name a function")
    if not found:
        near = difflib.get_close_matches(function, others, 1)
        hint = f"did you mean {near[0]}?" if near else "correct the name"
        raise InputError(f"{what}, {module_name} has no function {function}: {hint}")
    return cast(Oracle, oracle)


def _attribute(owner: object, name: str) -> object:
    return getattr(owner, name, None)


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _module(name: str) -> types.ModuleType:
    """Imports a module, or a file, whose path is then its name.

    The console script, unlike python -m, does not look for modules in the working directory. It
    comes last, so that a file there hides no module that a library imports later; so does the
    folder of a file, for what lies beside it.
    """
    path = Path(name)
    home = str(path.absolute().parent) if _is_file(name) else os.getcwd()
    if not {"", home} & set(sys.path):
        sys.path.append(home)
    importlib.invalidate_caches()
    if not _is_file(name):
        return importlib.import_module(name)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", "") == str(path.absolute()):
        return known
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

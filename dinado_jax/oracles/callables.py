"""Any callable as an oracle: of texts, of prompts and texts, or of lists of both."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dinado_jax.errors import InputError, quote
from dinado_jax.oracles.code_digest import code_digest
from dinado_jax.oracles.expression import find_oracle
from dinado_jax.oracles.foreign import ForeignError, guarded
from dinado_jax.oracles.judge import (
    LABELS,
    TRIAL_TEXTS,
    Oracle,
    judge,
    name_of,
    require_function,
    require_labels,
)
from dinado_jax.oracles.table import GIVEN, NamedOracle

_ANY_FORM = LABELS._replace(
    takes="function(text), function(prompt, text) or function(prompts, texts)"
)


def named_oracle(oracle: str | Callable[..., Any], prompts: Sequence[str]) -> NamedOracle:
    """Finds an oracle by its name or an expression, or makes one of a callable, for these prompts.

    Raises:
      InputError: as `find_oracle` or `given_oracle`, and for a prompt that it cannot judge.
    """
    named = find_oracle(oracle) if isinstance(oracle, str) else given_oracle(oracle, prompts)
    named.check_prompts({f"prompt {i}": text for i, text in enumerate(prompts)})
    return named


def given_oracle(function: Callable[..., Any], prompts: Sequence[str]) -> NamedOracle:
    """Makes an oracle of a callable, whose form is found by calling it on two texts.

    It is given one argument, a text, if it can be called with one; otherwise a prompt and a text,
    or, if it then answers with a list, lists of both, as all oracles are.

    Args:
      function: see above; it returns a bool or a number in [0, 1] for each text.
      prompts: at least one, to try it on.

    Raises:
      InputError: if it is a class, takes other arguments, raises for both texts, or returns
        anything else.
    """
    digest = code_digest(function)  # before it is called, which may change what it holds
    tried = [prompts[0], prompts[-1]], list(TRIAL_TEXTS)
    if _arguments(function) == 1:
        oracle, complaint = _of_texts(function), ""
    else:
        takes_lists, complaint = _takes_lists(function, *tried)
        oracle = function if takes_lists else _of_pairs(function)
    result = judge(oracle, *tried, _ANY_FORM)
    if complaint and result.failed.all():
        raise InputError(
            f"oracle {name_of(function)} raised {complaint} for lists of prompts and texts, and "
            f"{result.message} for a prompt and a text: {_ANY_FORM.form}"
        )
    require_labels(oracle, result, _ANY_FORM)
    return NamedOracle(f"{GIVEN} {name_of(function)}", oracle, digest)


def _arguments(function: Callable[..., Any]) -> int:
    """The number of arguments to call it with, 1 or 2: as few as it takes."""
    if not callable(function):
        raise InputError(
            f"oracle is {quote(function)}, not a function: {_ANY_FORM.form}; or give the name of "
            "one, as text"
        )
    require_function(function)
    try:
        with guarded():
            signature = inspect.signature(function)
    except ForeignError:  # a builtin has none
        return 1
    for count in (1, 2):
        try:
            signature.bind(*[""] * count)
        except TypeError:
            continue
        return count
    raise InputError(
        f"oracle {name_of(function)}{signature} takes neither a text nor a prompt and a text: "
        f"{_ANY_FORM.form}"
    )


def _takes_lists(
    function: Callable[..., Any], prompts: list[str], texts: list[str]
) -> tuple[bool, str]:
    """Whether it answers lists with a list; and what it raises for them, in one line."""
    try:
        with guarded():
            answer = function(list(prompts), list(texts))
            return isinstance(answer, (list, tuple)) or np.shape(answer) != (), ""
    except ForeignError as error:
        return False, str(error)


def _of_texts(function: Callable[[str], Any]) -> Oracle:
    def labels(prompts: list[str], texts: list[str]) -> list[Any]:
        return [function(text) for text in texts]

    labels.__qualname__ = name_of(function)
    return labels


def _of_pairs(function: Callable[[str, str], Any]) -> Oracle:
    def labels(prompts: list[str], texts: list[str]) -> list[Any]:
        return [function(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    labels.__qualname__ = name_of(function)
    return labels

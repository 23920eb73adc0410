"""Calling an oracle, any Python callable, so that its failures stay with the samples they hit."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dinado_jax.errors import InputError, quote
from dinado_jax.oracles.foreign import ForeignError, guarded
from dinado_jax.tasks.keyword.lexical import lexical

Oracle = Callable[[list[str], list[str]], Sequence[bool] | Sequence[float]]
_ROUNDING = 1e-6  # by which a label may miss [0, 1]: float32 arithmetic of the oracle's own
_FORM = "write it as function(prompts, texts) and return one bool or float in [0, 1] per text"


class OracleResult(NamedTuple):
    """What the oracle said of N samples."""

    labels: np.ndarray  # float32 [N], in [0, 1]; nan where the oracle failed
    errors: np.ndarray  # str [N], the type of what it raised; empty where it judged
    message: str = ""  # of the first exception; may hold secrets, so it is kept nowhere

    @property
    def failed(self) -> np.ndarray:
        """bool [N]."""
        return self.errors != ""

    @property
    def failures(self) -> int:
        """The number of samples on which the oracle raised."""
        return int(self.failed.sum())


def judge(oracle: Oracle, prompts: Sequence[str], texts: Sequence[str]) -> OracleResult:
    """Labels N samples: one call on the whole batch, or, if that raises, one call per sample.

    Every call gets lists of its own, which it may change. A sample on which the oracle raises, or
    whose answer a masked array masks, is marked as failed. InputError if the oracle returns
    anything but a list, tuple or array of one number in [0, 1] (to within 1e-6) per sample.
    """
    try:
        labels, masked = _asked(oracle, prompts, texts)
    except ForeignError:
        return _one_by_one(oracle, prompts, texts)
    message = "a masked answer" if masked.any() else ""
    return OracleResult(labels, np.where(masked, "masked", ""), message)


def check_oracle(oracle: Oracle, prompts: Sequence[str], texts: Sequence[str]) -> None:
    """Asks the oracle about a few rows before anything is computed, and drops its answers.

    InputError if it cannot be called with two lists, answers anything but labels, or raises on
    every row.
    """
    with guarded():
        try:
            takes = inspect.signature(oracle)
        except (TypeError, ValueError):  # built in
            takes = None
    if takes:
        try:
            takes.bind([], [])
        except TypeError as error:
            raise InputError(
                f"oracle {_name(oracle)}{takes}, cannot take two lists ({error}): {_FORM}"
            ) from None
    require_labels(oracle, judge(oracle, prompts, texts))


def require_labels(oracle: Oracle, result: OracleResult) -> None:
    """InputError if the oracle failed on every sample, of which there is one at least."""
    if result.failures and result.failed.all():
        raise InputError(
            f"oracle {_name(oracle)}, all {result.failures} samples raised, the first "
            f"{result.message or result.errors[0]}: try it on one prompt and text"
        )


def _one_by_one(oracle: Oracle, prompts: Sequence[str], texts: Sequence[str]) -> OracleResult:
    labels, errors, message = np.full(len(texts), np.nan, np.float32), [""] * len(texts), ""
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        try:
            (labels[i],), (masked,) = _asked(oracle, [prompt], [text])
            errors[i] = "masked" if masked else ""
        except ForeignError as error:
            errors[i], message = error.kind, message or str(error)
    return OracleResult(labels, np.array(errors), message)


def _asked(
    oracle: Oracle, prompts: Sequence[str], texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels float32 [N], and which of them the answer masks, bool [N], from one call.

    ForeignError for what the oracle raises, InputError for an answer that is no labels.
    """
    count = len(texts)
    with guarded():
        answer = oracle(list(prompts), list(texts))
    try:
        with guarded():
            values, error = _labels(answer, count)
    except ForeignError as raised:
        values, error = None, f"an answer that cannot become an array ({raised})"
    if error:
        raise InputError(f"oracle {_name(oracle)}, {error} for {count} texts: {_FORM}")
    masked = np.ma.getmaskarray(values)
    return np.where(masked, np.nan, np.ma.getdata(values)).astype(np.float32), masked


def _labels(answer: Any, count: int) -> tuple[np.ndarray | None, str]:
    """The answer as float64 [N] of our own, or what is wrong with it."""
    if not isinstance(answer, (list, tuple)) and not hasattr(answer, "__array__"):
        return None, f"returned {quote(answer) if answer is None else type(answer).__name__}"
    try:
        values = np.ma.array(answer, copy=True) if np.ma.isMA(answer) else np.array(answer)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        return None, "ragged answer"
    if values.shape != (count,):
        return None, f"answer of shape {values.shape}"
    if values.dtype.kind == "O" and all(type(x) in (bool, int, float) for x in values):
        values = values.astype(np.float64)
    if count and values.dtype.kind not in "biuf":
        odd = next((x for x in values.tolist() if type(x) not in (bool, int, float)), None)
        return None, f"answer of type {values.dtype}, with {quote(odd)},"
    values = values.astype(np.float64)
    numbers = np.ma.getdata(values)
    # `not` of the inside: also true of nan
    outside = ~((numbers >= -_ROUNDING) & (numbers <= 1 + _ROUNDING)) & ~np.ma.getmaskarray(values)
    if outside.any():
        return None, f"answer holds {numbers[outside][0]}"
    return np.clip(values, 0.0, 1.0), ""


def resolve(name: str) -> Oracle:
    """The oracle of that name: "lexical", or "package.module:function" to import, also from
    the current working directory. Raises InputError if there is none."""
    if name == "lexical":
        return lexical
    module_name, _, function = name.partition(":")
    if not module_name or not function:
        raise InputError(
            f'oracle {quote(name)}, no such oracle: give "lexical" or "package.module:function"'
        )
    # The console script, unlike python -m, does not look for modules where it is run.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        with guarded():
            module = importlib.import_module(module_name)
    except ForeignError as error:
        raise InputError(
            f"oracle {quote(name)}, importing {module_name} raised {error}: "
            "correct the name or install the module"
        ) from None
    try:
        with guarded():
            oracle = getattr(module, function, None)
            found = callable(oracle)
    except ForeignError as error:
        raise InputError(
            f"oracle {quote(name)}, looking up {function} raised {error}: correct the module"
        ) from None
    if not found:
        raise InputError(
            f"oracle {quote(name)}, {module_name} has no function {function}: correct the name"
        )
    return oracle


def _name(oracle: Oracle) -> str:
    with guarded():
        return str(getattr(oracle, "__qualname__", type(oracle).__qualname__))

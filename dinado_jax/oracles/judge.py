"""Calls an oracle or a feature, any Python callable, and isolates failures to single samples."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dinado_jax.errors import InputError, quote
from dinado_jax.oracles.foreign import AnswerError, ForeignError, guarded

Oracle = Callable[[list[str], list[str]], Sequence[bool] | Sequence[float] | np.ndarray]
TRIAL_TEXTS: tuple[str, ...] = ("A text of a few words.", "And another one!")  # to try it on
_MASKED = "masked"
_ROUNDING = 1e-6  # by which a label may lie outside [0, 1]: oracles may compute in float32


class Answers(NamedTuple):
    """What a function answers for each text."""

    noun: str  # the function, in messages
    least: float
    most: float
    wanted: str  # in messages
    takes: str = "function(prompts, texts)"

    @property
    def form(self) -> str:
        """How to write the function."""
        return f"write it as {self.takes} and return one {self.wanted} per text"


LABELS = Answers("oracle", 0.0, 1.0, "bool or float in [0, 1]")
FEATURES = Answers("feature", -1e9, 1e9, "bool or float between -1e9 and 1e9")


def is_success(label: npt.ArrayLike) -> np.ndarray:
    """Whether samples count as successes where they are counted, listed or shown: label above 1/2.

    Training never asks: there a label is a weight, and any positive one counts.

    Args:
      label: in [0, 1], of any shape.

    Returns:
      bool of that shape.
    """
    return np.asarray(label) > 0.5


class OracleResult(NamedTuple):
    """The labels of N samples, or the values of a feature."""

    labels: np.ndarray  # float32 [N], labels in [0, 1]; nan where the oracle failed
    errors: np.ndarray  # str [N], the type of the exception; empty where there was none
    message: str = ""  # of the first exception; may contain secrets, so it is never written to disk

    @property
    def failed(self) -> np.ndarray:
        """bool [N]."""
        return self.errors != ""

    @property
    def failures(self) -> int:
        """The number of samples on which the oracle raised."""
        return int(self.failed.sum())


def judge(
    oracle: Oracle, prompts: Sequence[str], texts: Sequence[str], answers: Answers = LABELS
) -> OracleResult:
    """Labels N samples: one call on the whole batch, or, if that raises, one call per sample.

    Every call gets new lists, which it may change. A sample on which the oracle raises, or whose
    answer is masked in a masked array, is marked as failed.

    Raises:
      InputError: if the oracle returns anything but a list, tuple or array of one number per
        sample, in the range of `answers` (to within 1e-6).
    """
    try:
        labels, masked = _call(oracle, prompts, texts, answers)
    except ForeignError:
        return _one_by_one(oracle, prompts, texts, answers)
    message = "a masked answer" if masked.any() else ""
    return OracleResult(labels, np.where(masked, _MASKED, ""), message)


def check_oracle(
    oracle: Oracle, prompts: Sequence[str], texts: Sequence[str], answers: Answers = LABELS
) -> None:
    """Calls the oracle on a few samples before a run begins.

    Raises:
      InputError: if it is a class, does not accept two lists, does not return labels, or raises on
        every sample.
    """
    require_two_lists(oracle, answers)
    require_labels(oracle, judge(oracle, prompts, texts, answers), answers)


def require_two_lists(oracle: Callable[..., Any], answers: Answers = LABELS) -> None:
    """Checks, as far as a signature tells, that it can be called with prompts and texts.

    Raises:
      InputError: for a class, and for a function that cannot.
    """
    require_function(oracle, answers)
    with guarded():
        try:
            signature = inspect.signature(oracle)
        except (TypeError, ValueError):  # a builtin has none
            signature = None
    if signature:
        try:
            signature.bind([], [])
        except TypeError as error:
            raise InputError(
                f"{answers.noun} {name_of(oracle)}{signature}, cannot take two lists ({error}): "
                f"{answers.form}"
            ) from None


def require_function(oracle: Callable[..., Any], answers: Answers = LABELS) -> None:
    """Checks that it is no class: calling one makes an object, and judges nothing.

    Raises:
      InputError: for a class.
    """
    if inspect.isclass(oracle):
        raise InputError(
            f"{answers.noun} {name_of(oracle)} is a class: give an object of it, such "
            f"as judge = {name_of(oracle)}()"
        )


def require_labels(oracle: Oracle, result: OracleResult, answers: Answers = LABELS) -> None:
    """Checks that the oracle labelled at least one sample, if there are any.

    Raises:
      InputError: if it failed on all of them.
    """
    if result.failures and result.failed.all():
        whose = f"{answers.noun} {name_of(oracle)}, all {result.failures}"
        if (result.errors == _MASKED).all():
            raise InputError(f"{whose} samples are masked in its answer: correct it")
        raise InputError(
            f"{whose} samples raised, the first {result.message or result.errors[0]}: correct it"
        )


def _one_by_one(
    oracle: Oracle, prompts: Sequence[str], texts: Sequence[str], answers: Answers
) -> OracleResult:
    labels, errors, message = np.full(len(texts), np.nan, np.float32), [""] * len(texts), ""
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        try:
            (labels[i],), (masked,) = _call(oracle, [prompt], [text], answers)
            errors[i] = _MASKED if masked else ""
        except ForeignError as error:
            errors[i], message = error.kind, message or str(error)
    return OracleResult(labels, np.array(errors), message)


def answer_of(
    oracle: Oracle, prompts: Sequence[str], texts: Sequence[str], answers: Answers = LABELS
) -> np.ma.MaskedArray:
    """Calls an oracle once, with new lists; returns its labels float64 [N], masked as it did.

    Raises:
      ForeignError: for any exception of the oracle.
      AnswerError: if the answer is not a list of labels.
    """
    count = len(texts)
    with guarded():
        answer = oracle(list(prompts), list(texts))
        if inspect.iscoroutine(answer):
            answer.close()  # else Python warns that it was never awaited
    try:
        with guarded():
            values, error = _numbers(answer, count, answers)
    except ForeignError as raised:
        values, error = None, f"an answer that cannot become an array ({raised})"
    if values is None or error:
        raise AnswerError(
            f"{answers.noun} {name_of(oracle)}, {error} for {count} texts: {answers.form}"
        )
    return np.ma.array(values)


def _call(
    oracle: Oracle, prompts: Sequence[str], texts: Sequence[str], answers: Answers
) -> tuple[np.ndarray, np.ndarray]:
    """Calls the oracle once; returns labels float32 [N] and their mask bool [N]."""
    values = answer_of(oracle, prompts, texts, answers)
    masked = np.ma.getmaskarray(values)
    return np.where(masked, np.nan, np.ma.getdata(values)).astype(np.float32), masked


def _numbers(answer: Any, count: int, answers: Answers) -> tuple[np.ndarray | None, str]:
    """Copies the answer to float64 [N], or returns what is wrong with it."""
    if not isinstance(answer, (list, tuple)) and not hasattr(answer, "__array__"):
        return None, f"returned {quote(answer) if answer is None else type(answer).__name__}"
    try:
        values = np.ma.array(answer, copy=True) if np.ma.isMA(answer) else np.array(answer)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        return None, "returned lists of different lengths"
    if values.shape != (count,):
        form = (
            f"{values.size} value{'s' * (values.size != 1)}"
            if values.ndim == 1
            else f"an array of shape {values.shape}"
        )
        return None, f"returned {form}"
    if values.dtype.kind == "O" and all(type(x) in (bool, int, float) for x in values):
        values = values.astype(np.float64)
    if count and values.dtype.kind not in "biuf":
        odd = next((x for x in values.tolist() if type(x) not in (bool, int, float)), None)
        return None, f"returned {quote(odd)} ({type(odd).__name__})"
    values = values.astype(np.float64)
    numbers = np.ma.getdata(values)
    # Written as a negation so that nan counts as outside.
    inside = (numbers >= answers.least - _ROUNDING) & (numbers <= answers.most + _ROUNDING)
    outside = ~inside & ~np.ma.getmaskarray(values)
    if outside.any():
        return None, f"returned {numbers[outside][0]}"
    return np.clip(values, answers.least, answers.most), ""


def name_of(function: Callable[..., Any]) -> str:
    """What messages call a function."""
    with guarded():
        return str(getattr(function, "__qualname__", type(function).__qualname__))

"""Calling an oracle, any Python callable, so that its failures stay with the samples they hit."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dinado_jax.errors import InputError, one_line
from dinado_jax.oracles.lexical import lexical

Oracle = Callable[[list[str], list[str]], Sequence[bool] | Sequence[float]]


class Verdict(NamedTuple):
    """What the oracle said of N samples."""

    labels: np.ndarray  # float32 [N], in [0, 1]; nan where the oracle failed
    failed: np.ndarray  # bool [N]

    @property
    def failures(self) -> int:
        """The number of samples on which the oracle raised."""
        return int(self.failed.sum())


def judge(oracle: Oracle, prompts: Sequence[str], texts: Sequence[str]) -> Verdict:
    """Labels N samples: one call on the whole batch, or, if that raises, one call per sample.

    A sample on which the oracle raises is marked as failed. Raises InputError if every sample
    fails, or if the oracle returns anything but one number in [0, 1] per sample.
    """
    prompts, texts = list(prompts), list(texts)
    try:
        answer = oracle(prompts, texts)
    except Exception:
        return _one_by_one(oracle, prompts, texts)
    return Verdict(_checked(oracle, answer, len(texts)), np.zeros(len(texts), bool))


def _one_by_one(oracle: Oracle, prompts: list[str], texts: list[str]) -> Verdict:
    labels, failed = np.full(len(texts), np.nan, np.float32), np.zeros(len(texts), bool)
    first = None
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        try:
            answer = oracle([prompt], [text])
        except Exception as error:
            failed[i], first = True, first or error
        else:
            labels[i] = _checked(oracle, answer, 1)[0]
    if first is not None and failed.all():
        raise InputError(
            f"oracle {_name(oracle)}, all {len(texts)} samples raised, the first "
            f"{one_line(first)}: try it on one prompt and text"
        ) from first
    return Verdict(labels, failed)


def _checked(oracle: Oracle, answer, count: int) -> np.ndarray:
    def refuse(what: str) -> InputError:
        mend = "return one bool or float in [0, 1] per text"
        return InputError(f"oracle {_name(oracle)}, {what} for {count} texts: {mend}")

    try:
        values = np.asarray(answer)
    except ValueError:
        raise refuse("ragged answer") from None
    if values.shape != (count,):
        raise refuse(f"answer of shape {values.shape}")
    if count and values.dtype.kind not in "biuf":
        raise refuse(f"answer of type {values.dtype}")
    wrong = ~((values >= 0) & (values <= 1))  # also true of nan
    if wrong.any():
        raise refuse(f"answer holds {values[wrong][0]}")
    return values.astype(np.float32)


def resolve(name: str) -> Oracle:
    """The oracle of that name: "lexical", or "package.module:function" to import, also from
    the current working directory. Raises InputError if there is none."""
    if name == "lexical":
        return lexical
    module_name, _, function = name.partition(":")
    if not module_name or not function:
        raise InputError(
            f'oracle {name!r}, no such oracle: give "lexical" or "package.module:function"'
        )
    # The console script, unlike python -m, does not look for modules where it is run.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"oracle {name!r}, importing {module_name} raised {one_line(error)}: "
            "correct the name or install the module"
        ) from error
    oracle = getattr(module, function, None)
    if not callable(oracle):
        raise InputError(
            f"oracle {name!r}, {module_name} has no function {function}: correct the name"
        )
    return oracle


def _name(oracle: Oracle) -> str:
    return getattr(oracle, "__qualname__", type(oracle).__qualname__)

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
    faults: np.ndarray  # str [N], what it raised; empty where it judged

    @property
    def failed(self) -> np.ndarray:
        """bool [N]."""
        return self.faults != ""

    @property
    def failures(self) -> int:
        """The number of samples on which the oracle raised."""
        return int(self.failed.sum())


def judge(oracle: Oracle, prompts: Sequence[str], texts: Sequence[str]) -> Verdict:
    """Labels N samples: one call on the whole batch, or, if that raises, one call per sample.

    A sample on which the oracle raises is marked as failed. Raises InputError if the oracle returns
    anything but one number in [0, 1] per sample.
    """
    prompts, texts = list(prompts), list(texts)
    try:
        answer = oracle(prompts, texts)
    except Exception:
        return _one_by_one(oracle, prompts, texts)
    return Verdict(_checked(oracle, answer, len(texts)), np.full(len(texts), ""))


def refuse_silence(oracle: Oracle, verdict: Verdict) -> None:
    """InputError if the oracle failed on every sample, of which there is one at least."""
    if verdict.failures and verdict.failed.all():
        raise InputError(
            f"oracle {_name(oracle)}, all {verdict.failures} samples raised, the first "
            f"{verdict.faults[0]}: try it on one prompt and text"
        )


def _one_by_one(oracle: Oracle, prompts: list[str], texts: list[str]) -> Verdict:
    labels, faults = np.full(len(texts), np.nan, np.float32), [""] * len(texts)
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        try:
            answer = oracle([prompt], [text])
        except Exception as error:
            faults[i] = one_line(error)
        else:
            labels[i] = _checked(oracle, answer, 1)[0]
    return Verdict(labels, np.array(faults))


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

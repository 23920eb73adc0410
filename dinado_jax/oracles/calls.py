"""An oracle as a run calls it: once for each text, and not for longer than it may take."""

import contextlib
import hashlib
import signal
import threading
import types
from collections.abc import Iterator, Sequence

import numpy as np

from dinado_jax.errors import InputError
from dinado_jax.oracles.judge import Oracle, answer_of, name_of


class TimeOver(BaseException):
    """An oracle takes longer than it may; no `except Exception` of it catches this."""


class Once:
    """An oracle that is asked once for each prompt and text, and then remembers the label.

    Failures are not remembered. A label takes about 200 bytes.
    """

    def __init__(self, oracle: Oracle):
        self.__wrapped__, self.__qualname__ = oracle, name_of(oracle)
        self._labels: dict[bytes, float] = {}

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The label of each text, float64 [N], masked where the oracle masks it."""
        keys = [_digest(*each) for each in zip(prompts, texts, strict=True)]
        new = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._labels}
        rows, labels = sorted(new.values()), dict[bytes, float]()
        if rows:
            asked = [prompts[row] for row in rows], [texts[row] for row in rows]
            answers = answer_of(self.__wrapped__, *asked)
            for row, label, masked in zip(rows, answers.data, np.ma.getmaskarray(answers)):
                (labels if masked else self._labels)[keys[row]] = float(label)
        found = [self._labels.get(key, np.nan) for key in keys]
        return np.ma.array(found, mask=[key in labels for key in keys])


def _digest(prompt: str, text: str) -> bytes:
    both = f"{len(prompt)} {prompt}{text}".encode(errors="surrogatepass")
    return hashlib.sha256(both).digest()


class Limited:
    """An oracle that may take so many seconds per text, and is stopped after them.

    It is stopped between two steps of Python, so that a library is waited for.
    """

    def __init__(self, oracle: Oracle, seconds: float):
        """Raises InputError where no call can be stopped."""
        if threading.current_thread() is not threading.main_thread():
            raise InputError(
                f"rollout.oracle_seconds = {seconds:g}: an oracle can be stopped only in the main "
                "thread of a program: set it to 0, or run there"
            )
        self.__wrapped__, self.__qualname__ = oracle, name_of(oracle)
        self._seconds = seconds

    def __call__(
        self, prompts: list[str], texts: list[str]
    ) -> Sequence[bool] | Sequence[float] | np.ndarray:
        """The labels of the oracle. TimeOver if they take too long."""
        with _time_limit(self._seconds * len(texts)):
            return self.__wrapped__(prompts, texts)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: types.FrameType | None) -> None:
        raise TimeOver(f"it took more than {seconds:g} s (rollout.oracle_seconds)")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)  # again, if it goes on nevertheless
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before)

"""Interrupts a run at a chosen moment, told by the files that it has written."""

import itertools
import signal
from collections.abc import Callable
from pathlib import Path

from dinado_jax.distributed import signals


def stop_when(monkeypatch, reached: Callable[[], bool]) -> None:
    """SIGTERM has been received from the moment on when `reached()`.

    Training asks once per step, sampling once per batch.
    """
    monkeypatch.setattr(signals, "received_signal", lambda: signal.SIGTERM if reached() else 0)


def die_when(monkeypatch, reached: Callable[[], bool]) -> None:
    """The process dies at that moment."""

    def received_signal():
        if reached():
            raise PowerCut
        return 0

    monkeypatch.setattr(signals, "received_signal", received_signal)


class PowerCut(Exception):
    pass


def asked(count: int) -> Callable[[], bool]:
    """Whether it has been asked so often: training asks after every step."""
    times = itertools.count(1)
    return lambda: next(times) >= count


def at_step(log: Path, step: int) -> Callable[[], bool]:
    """Whether a step has been computed, by its log of every step: a line is written once the next
    step is under way."""
    return lambda: log.exists() and len(log.read_text().splitlines()) >= step - 1


def with_parts(folder: Path, count: int) -> Callable[[], bool]:
    """Whether that many batches of samples have been judged, in this folder or those in it."""
    return lambda: len(list(folder.rglob("*.npz"))) >= count

"""Clean stops: after the first SIGINT or SIGTERM, work stops at the next safe point."""

import signal
import time
from types import FrameType

_received: list[int] = []


class Stopped(Exception):
    """Raised at a safe point after a signal, with everything saved that the next run needs."""

    def __init__(self, signum: int):
        """Sets the exit code that a shell reports for this signal, 128 + its number."""
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def install_handlers() -> None:
    """Installs handlers that record the first SIGINT or SIGTERM; a second ends the process.

    A second signal within one second is ignored: stopping a process often signals its group and its
    parents too, which forward the signal.
    """

    def record(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if not _received:
            _received.append(signum)
            first = time.monotonic()
        elif time.monotonic() - first > 1:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)

    first = 0.0
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, record)


def received_signal() -> int:
    """Returns the number of the first signal received, 0 if none."""
    return _received[0] if _received else 0


def raise_if_stopped() -> None:
    """Raises Stopped if a signal was received."""
    if signum := received_signal():
        raise Stopped(signum)

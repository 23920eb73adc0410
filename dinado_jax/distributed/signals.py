"""Stopping cleanly: the first SIGINT or SIGTERM asks, and work ends at its next safe point."""

import signal
import time

_received: list[int] = []


class Stopped(Exception):
    """Raised at a safe point after a signal; everything worth keeping is saved."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def install_handlers() -> None:
    """From now on the first SIGINT or SIGTERM is remembered; another one ends at once, unless it
    follows within a second: whoever stops a process often tells its group and its parents too."""

    def remember(signum, frame):
        nonlocal first
        if not _received:
            _received.append(signum)
            first = time.monotonic()
        elif time.monotonic() - first > 1:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)

    first = 0.0
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, remember)


def received_signal() -> int:
    """The first signal's number, 0 before there is one."""
    return _received[0] if _received else 0


def raise_if_stopped() -> None:
    """Raises Stopped if a signal has come."""
    if signum := received_signal():
        raise Stopped(signum)

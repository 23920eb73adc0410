"""Stopping cleanly: the first SIGINT or SIGTERM asks, and work ends at its next safe point."""

import signal

_received: list[int] = []


class Stopped(Exception):
    """Raised at a safe point after a signal; everything worth keeping is saved."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def listen() -> None:
    """From now on the first SIGINT or SIGTERM is remembered; a second one ends at once."""

    def remember(signum, frame):
        _received.append(signum)
        signal.signal(signum, signal.SIG_DFL)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, remember)


def pending() -> bool:
    return bool(_received)


def stop_here() -> None:
    """Raises Stopped if a signal has come."""
    if _received:
        raise Stopped(_received[0])

"""What a command has yet to do, and how long that takes at the rates that it has had."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextvars import ContextVar


@dataclasses.dataclass(frozen=True)
class Work:
    """A piece of work of a command."""

    name: str  # by which it is reached
    label: str  # by which it is shown
    kind: str = ""  # work of one kind takes the same time per unit
    units: float = 0.0  # of all processes together; 0: only a place in the order


class Outlook:
    """The work of a command in order, and the seconds per unit of each kind that it has had."""

    def __init__(self, works: Sequence[Work]):
        """Takes all work, in the order in which it is done."""
        self._left = list(works)
        self._pace: dict[str, float] = {}

    def reach(self, name: str) -> Work | None:
        """Drops what comes before the next work of that name; None, and nothing, without one."""
        for number, work in enumerate(self._left):
            if work.name == name:
                del self._left[:number]
                return work
        return None

    def measure(self, kind: str, seconds_per_unit: float) -> None:
        """Takes note of the rate of a kind of work."""
        self._pace[kind] = seconds_per_unit

    def seconds_after(self) -> float | None:
        """The seconds that all work after the one reached last takes; None unless the rate of each
        kind of it has been measured.
        """
        later = [work for work in self._left[1:] if work.units]
        if any(work.kind not in self._pace for work in later):
            return None
        return sum(work.units * self._pace[work.kind] for work in later)


_current: ContextVar[Outlook] = ContextVar("outlook")


@contextlib.contextmanager
def work_of(works: Sequence[Work]) -> Iterator[None]:
    """A context in which this is the work of the command."""
    token = _current.set(Outlook(works))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Outlook:
    """The outlook of the command; an empty one outside of `work_of`."""
    return _current.get(Outlook(()))


def reach(name: str) -> str:
    """Reaches the next work of that name; returns its label, or the name if there is none."""
    work = current().reach(name)
    return work.label if work else name

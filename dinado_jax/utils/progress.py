"""Progress of long tasks on standard error, and the JSON-lines log of metrics.

A terminal shows a bar with rate and time left; any other output gets a few plain lines per minute.
The time left of the whole command is shown as well, as soon as the rate of all its work is known.
"""

import contextlib
import json
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from dinado_jax.errors import InputError
from dinado_jax.utils import outlook, streams
from dinado_jax.utils.compile_time import compile_seconds
from dinado_jax.utils.files import check_regular, exists, parse_json, validate
from dinado_jax.utils.tensorboard import Board

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BEFORE_FIRST_LINE = 5.0  # which says that the program is being compiled
_RECENT = 5  # lines over which the rate is measured
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, "  # of tqdm, before the pace

_quiet = False


def _is_main() -> bool:
    """`distributed.processes.is_main`, which utils must not import."""
    return jax.process_index() == 0


def print_once(line: str) -> None:
    """Prints a status line on process 0 only."""
    if _is_main():
        streams.print_status(line)


def set_quiet(quiet: bool) -> None:
    """Sets whether progress is left out in this process."""
    global _quiet
    _quiet = quiet


def print_progress(line: str) -> None:
    """Prints a line on process 0 that only says how far the work is, unless that is left out."""
    if not _quiet:
        print_once(line)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        if minutes >= 60
        else f"{minutes}:{seconds:02d}"
    )


class Progress:
    """Reports progress in units of work; a context manager: call `advance` as units are done.

    The first unit includes what is done once, so that rate and time left are measured on later
    units, and on the recent ones if the rate changes; the time of compiling never counts.
    """

    def __init__(self, what: str, total: int, unit: str, start: int = 0):
        """Prepares a count from `start` to `total`.

        Args:
          what: name of the task; its label in the outlook, or the name itself, begins every line.
          total: number of units.
          unit: name of one unit, in the singular.
          start: number of units done by an earlier run.
        """
        self._outlook = outlook.current()
        self._work = self._outlook.reach(what)
        self.label = self._work.label if self._work else what
        self._total, self._unit = total, unit
        self._start, self._done = start, start
        # (seconds without compiling, units done) after the first advance, and at recent lines.
        self._first: tuple[float, int] | None = None
        self._marks: deque[tuple[float, int]] = deque(maxlen=_RECENT)
        self._bar: Any = None  # a tqdm, whose module is imported only where a bar is shown
        self._waiting = threading.Timer(_SECONDS_BEFORE_FIRST_LINE, self._compiling)
        self._waiting.daemon = True

    def __enter__(self) -> Self:
        self._started = self._shown = time.monotonic()
        compile_seconds()  # counts from here on
        if _is_main() and sys.stderr.isatty() and not _quiet:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, initial=self._start, desc=self.label, unit=self._unit
            )
            self._bar.set_postfix_str("compiling")
        elif self._start < self._total:
            self._waiting.start()
        return self

    def _compiling(self) -> None:
        print_progress(f"{self.label}: compiling ({self._done}/{self._total} {self._unit}s)")

    def advance(self, count: int = 1, **figures: float) -> None:
        """Adds `count` finished units, and shows these figures next to the count."""
        self._waiting.cancel()
        self._done += count
        now = time.monotonic()
        worked = now - compile_seconds()
        if self._first is None:
            self._first = worked, self._done
            self._marks.append(self._first)
        self._measure(worked)
        due = now - self._shown >= _SECONDS_BETWEEN_LINES and self._done < self._total
        rate = self._rate(worked)
        if due:
            self._shown = now
            self._marks.append((worked, self._done))
        if self._bar is not None:
            self._draw(count, rate, figures)
        elif due:
            self._line(rate, figures)

    def _rate(self, worked: float) -> float:
        """Units per second since the oldest of the recent lines; 0 if none was done since."""
        then, done = self._marks[0]
        return (self._done - done) / max(worked - then, 1e-9)

    def _measure(self, worked: float) -> None:
        """Tells the outlook the rate so far."""
        then, done = self._first or (worked, self._done)
        if self._work and self._work.units and self._done > done:
            share = (self._done - done) / self._total
            self._outlook.measure(self._work.kind, (worked - then) / (share * self._work.units))

    def _whole(self, left: float | None) -> str:
        """The time left of all work, if after this one, with so many seconds left, there is more
        and how long that takes is known; otherwise empty.
        """
        after = self._outlook.seconds_after()
        return _clock(left + after) if self._work and after and left is not None else ""

    def _draw(self, count: int, rate: float, figures: dict[str, float]) -> None:
        left = (self._total - self._done) / rate if rate else None
        pace = "time left unknown" if left is None else f"{_clock(left)} left, {rate:.3g}/s"
        shown = {key: f"{value:.4g}" for key, value in figures.items()}
        if whole := self._whole(left):
            shown["whole run"] = whole
        with contextlib.suppress(OSError):  # the terminal was closed
            # The rate of tqdm has compiling in it.
            self._bar.bar_format = _BAR + pace + "{postfix}]"
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(count)

    def _line(self, rate: float, figures: dict[str, float]) -> None:
        pace = "time left unknown"
        if rate:
            left = (self._total - self._done) / rate
            pace = f"{rate:.3g} {self._unit}s/s, {_clock(left)} left"
            if whole := self._whole(left):
                pace += f" (whole run: about {whole})"
        shown = "".join(f", {key} {value:.4g}" for key, value in figures.items())
        print_progress(f"{self.label}: {self._done}/{self._total} {self._unit}s, {pace}{shown}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.cancel()
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
        elif kind is None and self._done > self._start:
            elapsed = time.monotonic() - self._started
            print_progress(
                f"{self.label}: {self._done}/{self._total} {self._unit}s in {_clock(elapsed)}"
            )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a `MetricsLog`, [] without one, up to the first invalid line: a killed
    process may leave an incomplete one.

    Raises:
      InputError: `path` exists and is not a regular file.
    """
    records = []
    if not exists(path):
        return records
    check_regular(path)
    for line in path.read_text("utf-8", "replace").split("\n"):
        try:
            record = parse_json(line, "", "")
            records.append(validate(record, {"step": int}, "", ""))
        except InputError:
            break
    return records


class MetricsLog:
    """A JSON-lines file of metrics by step, written by process 0 only."""

    def __init__(self, path: Path, resume_step: int = 0, board: Board | None = None):
        """Opens a log and drops all records after `resume_step`; a board gets its numbers too.

        Raises:
          InputError: `path` exists and is not a regular file.
        """
        self._path, self._board = path, board
        if not _is_main():
            return
        kept = [line for line in read_metrics(path) if line["step"] <= resume_step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        partial.replace(path)

    def write(self, step: int, **figures: Any) -> None:
        """Appends the record of a step."""
        if not _is_main():
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self._board:
            self._board.write(step, figures)

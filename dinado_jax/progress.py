"""What a long task shows while it works, and the JSON lines it leaves.

A terminal gets a bar with rate and time left; anything else plain lines, a few a minute.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from dinado_jax.errors import InputError
from dinado_jax.files import check_regular, checked, exists, parse_json
from dinado_jax.processes import first

_SECONDS_BETWEEN_LINES = 15.0


def say(line: str) -> None:
    """A line for people, once, however many processes there are."""
    if first():
        print(line, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        if minutes >= 60
        else f"{minutes}:{seconds:02d}"
    )


class Progress:
    """Counts `total` units of work; use as a context manager and call `advance`."""

    def __init__(self, what: str, total: int, unit: str, start: int = 0):
        self._what, self._total, self._unit = what, total, unit
        self._start, self._done = start, start
        self._bar = None

    def __enter__(self) -> "Progress":
        self._began = self._shown = time.monotonic()
        if first() and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, initial=self._start, desc=self._what, unit=self._unit
            )
        return self

    def advance(self, count: int = 1, **figures: float) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            if figures:
                self._bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()}, refresh=False)
            return
        now = time.monotonic()
        if now - self._shown >= _SECONDS_BETWEEN_LINES and self._done < self._total:
            self._shown = now
            self._line(now, figures)

    def _line(self, now: float, figures: dict[str, float]) -> None:
        elapsed = max(now - self._began, 1e-9)
        rate = (self._done - self._start) / elapsed
        left = _clock((self._total - self._done) / rate) if rate else "?"
        shown = "".join(f", {key} {value:.4g}" for key, value in figures.items())
        say(
            f"{self._what}: {self._done}/{self._total} {self._unit}s, "
            f"{rate:.3g} {self._unit}s/s, {left} left{shown}"
        )

    def __exit__(self, kind, *_):
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._done > self._start:
            elapsed = time.monotonic() - self._began
            say(f"{self._what}: {self._done}/{self._total} {self._unit}s in {_clock(elapsed)}")


def _whole_lines(path: Path) -> list[dict]:
    """The lines of a log up to the first that a killed process left torn, or that is none."""
    whole = []
    if not exists(path):
        return whole
    check_regular(path)
    for line in path.read_text(errors="replace").split("\n"):
        try:
            record = parse_json(line, "", "")
            whole.append(checked(record, {"step": int}, "", ""))
        except InputError:
            break
    return whole


class MetricsLog:
    """A JSON-lines file of figures by step; reopening at a step drops what came after it. Process 0
    writes it."""

    def __init__(self, path: Path, resume_step: int = 0):
        self._path = path
        if not first():
            return
        kept = [line for line in _whole_lines(path) if line["step"] <= resume_step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(path)

    def write(self, step: int, **figures: Any) -> None:
        if not first():
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")

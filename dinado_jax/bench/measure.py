"""Fair timing: each way in a process of its own, which compiles apart and warms up; then all in
turns, told as the median with its spread.

Nothing here imports JAX or PyTorch: the parent stays small (a child's peak of resident memory
begins at its parent's), and a way's process holds no library but its own.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple

from dinado_jax.errors import InputError

_ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share an accelerator
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
_TARGETS = range(17, 25)  # tokens, a third of what a byte has


@dataclasses.dataclass(frozen=True)
class Request:
    """What a worker is to make ready; as one line of JSON it is the worker's only input."""

    what: str  # vocab | train | decode | rollout | beam | matmul | copy
    way: str
    model: dict[str, int]  # sizes of the base, by the names of the section base
    dtype: str  # of activations, and of what is not trained
    variant: str = "base"  # base | merge | soft | nado
    layers: int = 1  # of nado's head and of soft's trunk
    batch: int = 1  # rows
    prompt: int = 1  # tokens
    length: int = 1  # tokens of a row (vocab, train), new tokens (all else)
    trained: bool = False  # vocab: the matrix too
    samples: int = 1  # rollout: rows that share a prompt
    beams: int = 1
    top_k: int = 0
    top_p: float = 1.0


class Program(NamedTuple):
    """Something to time. `run` returns when its work is done."""

    run: Callable[[], Any]
    figures: dict[str, Any]  # what is known without running: compile_s, temp_bytes, device, ..
    device_peak: Callable[[], int | None] = lambda: None  # bytes of memory of its own, so far


class Failed(RuntimeError):
    """A worker ended before its time."""


class Worker:
    """A process with one program; idle but while it is asked."""

    def __init__(self, request: Request, errors: IO[str]):
        """Returns when the program is compiled and has run once; `errors` takes its stderr."""
        self._way, self._errors = request.way, errors
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dinado_jax.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | _ENVIRONMENT,
        )
        try:
            self.figures = self._ask(json.dumps(dataclasses.asdict(request)))
        except BaseException:
            self.kill()
            raise

    def run(self) -> float:
        """Seconds of one run."""
        return self._ask("run")["seconds"]

    def end(self) -> dict[str, Any]:
        """What is known only at the end: peak_bytes."""
        return self._ask("end")

    def kill(self) -> None:
        """Whatever it does, it is over, and waited for."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # it is dead, and answers nothing
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or "null") or self._epitaph()
        if fault := answer.get("error"):
            kind = InputError if answer["input"] else Failed
            raise kind(fault if answer["input"] else f"{self._way}: {fault}")
        return answer

    def _epitaph(self) -> dict[str, Any]:
        code = self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().split("\n")[-2:] or [""])[0].strip()
        memory = ": it may want a smaller --batch or --size" if code == -9 else ""
        return {"input": False, "error": f"ended with exit code {code}{memory} {last}".rstrip()}


@contextlib.contextmanager
def workers(requests: Sequence[Request]) -> Iterator[dict[str, Worker]]:
    """One for each request, by way, made ready one after another; none outlives the block."""
    with contextlib.ExitStack() as stack:
        started = {}
        for request in requests:
            errors = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            started[request.way] = worker = Worker(request, errors)
            stack.callback(worker.kill)
        yield started


def in_turns(started: dict[str, Worker], repeats: int) -> dict[str, dict[str, Any]]:
    """Figures of each way: those it came with, median, least and most seconds of `repeats` runs,
    and those it ends with. One round runs every way once, so that a noisy neighbour meets all
    alike."""
    seconds = {way: [] for way in started}
    for _ in range(repeats):
        for way, worker in started.items():
            seconds[way].append(worker.run())
    return {
        way: {
            **worker.figures,
            "seconds": statistics.median(seconds[way]),
            "seconds_least": min(seconds[way]),
            "seconds_most": max(seconds[way]),
            **worker.end(),
        }
        for way, worker in started.items()
    }


def oracle(prompts: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]) -> list[bool]:
    """A cheap judge of token ids on the host: a continuation [N] has any of a few ids."""
    return [any(token in _TARGETS for token in row) for row in rows]

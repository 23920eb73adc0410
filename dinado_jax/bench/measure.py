"""Fair timing: implementations of the same work run in separate processes, interleaved.

A process compiles its program and runs it once untimed; then every round runs each implementation
once, so that other load on the machine affects all of them equally.

This module imports neither JAX nor a peer's library: the peak of a child's resident memory starts
at its parent's, which therefore stays small, and a child loads only the libraries that it needs.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple, Protocol

from dinado_jax.errors import InputError

_ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share an accelerator
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
_TARGETS = range(17, 25)  # token ids; a third of all byte values


@dataclasses.dataclass(frozen=True)
class Request:
    """The work of one worker process, which reads it as a line of JSON."""

    what: str  # vocab | train | decode | rollout | beam | matmul | copy
    way: str  # the implementation
    model: dict[str, Any]  # of the base: model_type and sizes by their names in a config.json
    dtype: str  # of activations and of frozen parameters
    variant: str = "base"  # base | merge | soft | nado
    layers: int = 1  # of nado's head and of soft's trunk
    batch: int = 1  # rows
    prompt: int = 1  # tokens
    length: int = 1  # tokens per row (vocab, train), new tokens per row (otherwise)
    trained: bool = False  # vocab: the matrix is trained too
    samples: int = 1  # rollout: rows per prompt
    queues: int = 1  # rollout: samples drawn by each row
    ends: float = 0.0  # rollout: probability that a token ends its sample
    beams: int = 1
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    peer: str = ""  # the file that defines `way`; "" for this package


class Program(NamedTuple):
    """A program to time."""

    run: Callable[[], Any]  # returns when its work is done, on devices too
    figures: dict[str, Any]  # known without running: compile_s, temp_bytes, device, ..
    device_peak: Callable[[], int | None] = lambda: None  # peak bytes of an accelerator; None: CPU


class Failed(RuntimeError):
    """A worker failed for another reason than bad input."""


class Timed(Protocol):
    """What `interleave` needs of a worker."""

    figures: dict[str, Any]

    def run(self) -> float:
        """Runs the program once; returns seconds."""
        ...

    def end(self) -> dict[str, Any]:
        """Ends the worker; returns the figures known only then: peak_bytes."""
        ...


class Worker:
    """A child process with one program, which it runs on request."""

    def __init__(self, request: Request, errors: IO[str]):
        """Starts the process; returns when its program is compiled and has run once.

        Args:
          request: the program.
          errors: a file that takes the process's standard error.

        Raises:
          InputError: the request is at fault.
          Failed: the process failed otherwise.
        """
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
        """Runs the program once; returns seconds."""
        return self._ask("run")["seconds"]

    def end(self) -> dict[str, Any]:
        """Ends the process; returns the figures known only then: peak_bytes."""
        return self._ask("end")

    def kill(self) -> None:
        """Kills the process and waits for its end."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # the process has ended: no answer follows
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or "null") or self._exit_answer()
        if error := answer.get("error"):
            if answer["input"]:
                raise InputError(error)
            raise Failed(f"{self._way or 'peer'}: {error}")
        return answer

    def _exit_answer(self) -> dict[str, Any]:
        code = self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().split("\n")[-2:] or [""])[0].strip()
        memory = ": it may need a smaller --batch or --size" if code == -9 else ""
        return {"input": False, "error": f"ended with exit code {code}{memory} {last}".rstrip()}


@contextlib.contextmanager
def workers(requests: Sequence[Request]) -> Iterator[dict[str, Worker]]:
    """Starts a worker per request, in order; yields them by `way` and kills them at exit."""
    with contextlib.ExitStack() as stack:
        started = {}
        for request in requests:
            errors = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            started[request.way] = worker = Worker(request, errors)
            stack.callback(worker.kill)
        yield started


def peer_ways(request: Request) -> list[str]:
    """Returns the names of the programs of `request.peer`, asked in a separate process.

    Raises:
      InputError: the file is not a peer, see `bench.peer.load`.
      Failed: its function `ways` failed.
    """
    with workers([dataclasses.replace(request, way="")]) as started:
        return started[""].figures["ways"]


def interleave(started: Mapping[str, Timed], repeats: int) -> dict[str, dict[str, Any]]:
    """Runs every worker once per round, for `repeats` rounds, and ends them.

    Returns:
      The figures of each worker: those known before and after the runs, and the median, minimum and
      maximum of its seconds.
    """
    seconds: dict[str, list[float]] = {way: [] for way in started}
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


def oracle(prompts: Sequence[Any], rows: Sequence[Any]) -> list[bool]:
    """A cheap oracle on rows of token ids: whether a continuation contains any of a few ids."""
    return [any(token in _TARGETS for token in row) for row in rows]

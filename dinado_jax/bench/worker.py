"""A worker process: `python -m dinado_jax.bench.worker`, with JSON lines in and out.

1. In: a Request. Out: the figures of its program, compiled and run once. For a peer with way "":
   {"ways"}, and the process ends.
2. In: "run". Out: {"seconds"}; any number of times.
3. In: any other line. Out: {"peak_bytes"}, and the process ends.

A failure is answered with {"error", "input": whether the input is at fault}.
"""

import json
import resource
import sys
import time
from collections.abc import Callable

from dinado_jax.bench import peer
from dinado_jax.bench.measure import Program, Request
from dinado_jax.errors import InputError, one_line


def program(request: Request) -> Program:
    """Returns the program of a request; imports only the libraries that it needs."""
    if request.peer:
        return peer.load(request.peer).program(request)
    if request.what in ("matmul", "copy"):
        from dinado_jax.bench import compiled

        return compiled.PROBES[request.what](request)
    if request.what == "vocab":
        from dinado_jax.bench import vocab

        return vocab.program(request)
    if request.what == "train":
        from dinado_jax.bench import train

        return train.program(request)
    from dinado_jax.bench import decode

    return decode.program(request)


def serve(ask: Callable[[], str], answer: Callable[[dict], None]) -> None:
    """Answers one parent, see the module; `ask` returns its next line, "" after the last."""
    request = Request(**json.loads(ask()))
    if request.peer and not request.way:
        return answer({"ways": list(peer.load(request.peer).ways(request))})
    timed = program(request)
    timed.run()
    answer(timed.figures)
    while ask().strip() == "run":
        started = time.perf_counter()
        timed.run()
        answer({"seconds": time.perf_counter() - started})
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    resident = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer({"peak_bytes": timed.device_peak() or resident})


def main() -> None:
    """Serves standard input and output."""
    out, sys.stdout = sys.stdout, sys.stderr  # libraries may print, but not into the answers

    def answer(figures: dict) -> None:
        print(json.dumps(figures), file=out, flush=True)

    try:
        serve(sys.stdin.readline, answer)
    except InputError as error:
        answer({"error": str(error), "input": True})
    except Exception as error:
        answer({"error": one_line(error), "input": False})


if __name__ == "__main__":
    main()

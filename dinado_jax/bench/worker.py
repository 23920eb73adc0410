"""The process of one way: `python -m dinado_jax.bench.worker`, lines of JSON in and out.

A Request comes in; the figures of its program go out once it is compiled and has run. Then each
line "run" is answered with {"seconds"}, and anything else with {"peak_bytes"}, which is the end. A
failure is answered with {"error", "input": whether the input is to blame}.
"""

import json
import resource
import sys
import time
from collections.abc import Callable

from dinado_jax.bench.measure import Program, Request
from dinado_jax.errors import InputError, one_line

PEERS = ("torch", "generate", "cached head", "recomputed head")


def program(request: Request) -> Program:
    if request.way in PEERS:
        from dinado_jax.bench import peer

        return peer.program(request)
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
    made = program(Request(**json.loads(ask())))
    made.run()
    answer(made.figures)
    while ask().strip() == "run":
        began = time.perf_counter()
        made.run()
        answer({"seconds": time.perf_counter() - began})
    unit = 1 if sys.platform == "darwin" else 1024
    resident = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer({"peak_bytes": made.device_peak() or resident})


def main() -> None:
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer

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

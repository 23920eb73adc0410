"""Peers: programs of other libraries, which `dinado bench --peer FILE` compares with ours.

FILE is a Python file with the two functions of `Peer`. It is imported only in separate processes,
so that it may load any library. `benchmarks/torch_peer.py` is one.
"""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from dinado_jax.bench.measure import Program, Request
from dinado_jax.errors import InputError, one_line


class Peer(Protocol):
    """The functions that a peer's file defines."""

    def ways(self, request: Request) -> Sequence[str]:
        """Returns the names of its programs for the requested work; `request.way` is ""."""
        ...

    def program(self, request: Request) -> Program:
        """Returns the program named `request.way`, compiled if its library compiles."""
        ...


def load(path: str) -> Peer:
    """Imports a peer's file.

    Raises:
      InputError: the file cannot be imported, or a function is missing.
    """
    fix = "correct it, or install what it needs"
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"--peer {path}, not a Python file: name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"--peer {path}, cannot be imported ({one_line(error)}): {fix}") from error
    for name in ("ways", "program"):
        if not callable(getattr(module, name, None)):
            raise InputError(f"--peer {path}, has no function {name}(request): define it")
    return cast(Peer, module)

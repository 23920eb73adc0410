"""The processes of one run: how they find each other, meet, and agree.

DINADO_DISTRIBUTED in the environment says how: `off` or unset, one process; `auto`, as JAX finds
out on TPU pods, SLURM, Kubernetes and Open MPI; or HOST:PORT,N,I, process I of N meets the others
at process 0's address. They all see one run folder: process 0 writes what is common, each of them
its own parts.
"""

import atexit
import contextlib
import errno
import functools
import json
import os
import re
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src.distributed import global_state  # its client has no public name
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dinado_jax.distributed import signals
from dinado_jax.errors import InputError, one_line, quote

_HOW, _PATIENCE = "DINADO_DISTRIBUTED", "DINADO_DISTRIBUTED_TIMEOUT"
_FAILURES = "dinado/failures"
_ending = threading.Event()


def connect() -> None:
    """Finds the other processes; to be called before JAX touches a device.

    InputError for an environment that cannot be read, or in which process 0 cannot be reached. If
    some process does not come within DINADO_DISTRIBUTED_TIMEOUT seconds (300), a line says so and
    the program ends with 1.
    """
    how = os.environ.get(_HOW, "").strip() or "off"
    if how == "off":
        return
    patience = os.environ.get(_PATIENCE, "").strip() or "300"
    if not re.fullmatch(r"0*[1-9]\d{0,5}", patience, re.ASCII):
        raise InputError(f"{_PATIENCE} = {quote(patience)}: give a whole number of seconds above 0")
    place = _place(how)
    if place.get("process_id") == 0:
        _check_own(place["coordinator_address"], place["num_processes"])
    # It would take the signal to stop, which is for us to hear.
    jax.config.update("jax_enable_preemption_service", False)
    # Left to itself, JAX would abort with the stack of its C++ library.
    address = place.get("coordinator_address", "")
    watch = threading.Timer(int(patience), _give_up, (patience, address))
    watch.start()
    try:
        jax.distributed.initialize(**place, initialization_timeout=int(patience) + 60)
    except ValueError as error:  # what JAX says where it finds no cluster
        raise InputError(
            f"{_HOW} = {how}, but no cluster is to be seen here ({one_line(error)}): set it to "
            "HOST:PORT,N,I or off"
        ) from None
    finally:
        watch.cancel()
    atexit.register(_ending.set)
    threading.Thread(target=_heed, daemon=True).start()


def _give_up(patience: str, address: str) -> None:
    why = f"not all processes came within {patience} s"
    if address and not _addresses(*_split(address)):
        why = f"{_HOW} = {address},..: no host has that name, even after {patience} s"
    line = (
        f"dinado: error: {why}: start the command on every host, with one {_HOW}, or raise "
        f"{_PATIENCE}\n"
    )
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, line.encode())
    os._exit(1)


# HOST is a name, an IPv4 address, or an IPv6 address in brackets.
_FORM = re.compile(
    r"(\[[\da-fA-F:.]+(?:%\w+)?\]|[^\s:,\[\]]+) *: *(\d+) *, *(\d+) *, *(\d+)", re.ASCII
)


def _place(how: str) -> dict[str, Any]:
    """What jax.distributed.initialize is to be told. InputError for what cannot be right."""
    if how == "auto":
        return {}
    where = f"{_HOW} = {quote(how)}"
    found = _FORM.fullmatch(how)
    if not found:
        raise InputError(
            f"{where}: give off, auto, or HOST:PORT,N,I for process I of N (IPv6: [HOST]:PORT,N,I)"
        )
    port, number, index = (int(digits) for digits in found.groups()[1:])
    if not 0 < port < 2**16:
        raise InputError(f"{where}: {port} is no port, give one from 1 to 65535")
    if number < 1:
        raise InputError(f"{where}: there is at least 1 process, raise N")
    if index >= number:
        raise InputError(f"{where}: of {number} processes the last is {number - 1}, lower I")
    return {
        "coordinator_address": f"{found[1]}:{port}",
        "num_processes": number,
        "process_id": index,
    }


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _addresses(host: str, port: int) -> list:
    """What the name stands for, none if nobody knows it."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []


def _check_own(address: str, number: int) -> None:
    """InputError unless the address of process 0, which is this one, leads here. The others cannot
    know: their process 0 may come later, and its name with it."""
    host, port = _split(address)
    where, seconds = f"{_HOW} = {address},{number},0", 5.0
    if not _addresses(host, port):
        raise InputError(f"{where}: no host has that name, correct HOST")
    every = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    every = every if socket.has_dualstack_ipv6() else {}
    try:
        with socket.create_server(("", port), **every) as server:
            server.settimeout(seconds)
            with socket.create_connection((host, port), seconds):
                server.accept()[0].close()
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise InputError(
                f"{where}: process 0 cannot listen there ({one_line(error)}), choose another PORT"
            ) from None
        raise InputError(
            f"{where}: HOST does not lead to this machine ({one_line(error)}), where process 0 "
            "listens: give its name or address"
        ) from None


def process_count() -> int:
    return jax.process_count()


def process_index() -> int:
    return jax.process_index()


def is_main() -> bool:
    """Whether this is process 0, which writes what all have in common."""
    return process_index() == 0


def barrier(place: str) -> None:
    """Returns once all processes have come to this place of the program."""
    if process_count() > 1:
        multihost_utils.sync_global_devices(place)


def broadcast(number: int | bool) -> int:
    """What process 0 says, in all processes."""
    return (
        number
        if process_count() == 1
        else int(multihost_utils.broadcast_one_to_all(np.int32(number)))
    )


def abort(code: int, why: str) -> NoReturn:
    """Ends this process after a failure. Others, who need not share it and would wait for this one,
    are told, and end with the same code and a line that says why."""
    if not jax.distributed.is_initialized():
        sys.exit(code)
    _ending.set()
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone: they know
        note = json.dumps({"process": process_index(), "code": code, "why": why})
        global_state.client.key_value_set(f"{_FAILURES}/{process_index()}", note)
    _end(code)


def _heed() -> None:
    """Ends this process, whatever it waits for, once another one has reported its failure."""
    while not _ending.wait(1):
        note = _worst_failure()
        if note and not _ending.is_set():
            line = f"dinado: error: process {note['process']} failed: {note['why']}\n"
            with contextlib.suppress(OSError):  # nobody listens
                os.write(2, line.encode())
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what now breaks here is its echo
            _end(note["code"])


def _worst_failure() -> dict | None:
    """Of those told so far: bad input, or what else there is."""
    notes = []
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 cannot be reached
        notes = [json.loads(n) for _, n in global_state.client.key_value_dir_get(_FAILURES)]
    return max(notes, key=lambda note: note["code"], default=None)


def _end(code: int) -> NoReturn:
    """Later than others hear of it: who is gone breaks what they are at. Process 0, through whom
    they hear, goes last. What failed meanwhile may be the cause: bad input is said to all."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    time.sleep(4 if is_main() else 2)
    worst = _worst_failure()
    os._exit(max(code, worst["code"]) if worst else code)


def assert_same(what: str, value: str) -> None:
    """InputError in all processes unless they hold the same text."""
    checksum = zlib.crc32(value.encode()) & 0x7FFFFFFF
    if (
        process_count() > 1
        and len(set(multihost_utils.process_allgather(np.int32(checksum)).tolist())) > 1
    ):
        raise InputError(
            f"the processes have different {what}: give all of them the same command and files"
        )


class AsyncMax:
    """The largest of the numbers that the processes give, alike in all of them.

    One process has its answer at once. Several have each answer a call late, the first of them
    None, so that nobody waits for the devices.
    """

    def __init__(self):
        self._asked = None

    def __call__(self, *numbers: int) -> list[int] | None:
        if process_count() == 1:
            return list(numbers)
        before, self._asked = self._asked, _largest(numbers)
        return None if before is None else before.addressable_data(0).tolist()


def _largest(numbers: tuple[int, ...]) -> jax.Array:
    mesh, highest = _everywhere()
    mine = np.tile(np.int32(numbers), (jax.local_device_count(), 1))
    spread = NamedSharding(mesh, PartitionSpec("device"))
    return highest(jax.make_array_from_process_local_data(spread, mine))


@functools.cache
def _everywhere():
    mesh = Mesh(np.array(jax.devices()), ("device",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return mesh, jax.jit(lambda numbers: numbers.max(0), out_shardings=everywhere)


def lockstep(work: Iterator) -> Iterator:
    """Yields what is there for this process to do, until no process has any left.

    All processes raise Stopped after as many rounds if one of them has received a signal.
    """
    agreed, item = AsyncMax(), next(work, None)
    while True:
        answer = agreed(signals.received_signal(), item is not None)
        signum, busy = answer or (0, True)
        if signum:
            raise signals.Stopped(signum)
        if not busy:
            return
        if item is not None:
            yield item
            item = next(work, None)

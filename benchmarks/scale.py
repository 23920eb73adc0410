"""Memory, communication and estimated time of a training step or decoding call on many chips.

Programs are compiled from shapes alone: no array is created and no chip is needed.

    pip install '.[tpu]'      # the TPU's compiler; --target cpu does without
    python benchmarks/scale.py CONFIG --base gpt2-large --fsdp 8 base.remat=true
    python benchmarks/scale.py CONFIG --base llama-8b --decode delta.full="['default']"

Prints a line of JSON. Memory, collectives and their bytes are the compiler's; FLOPs and bytes moved
through memory are counted by hand; seconds follow from them and from assumed shares of a chip's
rates. Beside the counts stands what the compiler makes of them: `xla_flops` of a training step,
and the bytes that a decoding step moves through main memory (memory_traffic.py). docs/scale.md says
how far each of them can be trusted.

All layers need the same: a base is compiled with two numbers of layers (--depths), and the figures
of its full depth are extrapolated on the line through both.
"""

import argparse
import json
import math
import os
import re
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import memory_traffic
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dinado_jax.bench.sizes import SIZES
from dinado_jax.config import schema
from dinado_jax.controls.make import make_control
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.distributed.constraints import AXES
from dinado_jax.distributed.partitioning import Plan, local_mesh
from dinado_jax.models.architectures import parse_model
from dinado_jax.models.params import abstract_params
from dinado_jax.models.protocol import BaseModel
from dinado_jax.ops import vocab
from dinado_jax.ops.backend import compiling_for
from dinado_jax.stages.settings import changed, load_config
from dinado_jax.training.cost_estimate import training
from dinado_jax.training.step import make_step


def _gpt2(layers: int, width: int, heads: int) -> dict[str, Any]:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return SIZES["gpt2"] | sizes


BASES = SIZES | {
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "7b": _gpt2(32, 4096, 32),
}
# Number of chips: a torus with at least as many, of which some may stay unused.
TOPOLOGIES = {
    "v5e": {4: "2x2", 8: "2x4", 64: "8x8", 256: "16x16"},
    "v5p": {4: "2x2x1", 8: "2x2x2", 64: "4x4x4", 256: "4x8x8"},
}


class Chip(NamedTuple):
    """Peak rates by the vendor; sources in docs/scale.md."""

    flops: float  # bfloat16, per second
    memory: float  # bytes
    memory_rate: float  # bytes per second
    link_rate: dict[int, float]  # number of chips: bytes per second into each of them


CHIPS = {
    # An axis of a torus has both directions where it closes: at 16 (v5e), at multiples of 4 (v5p).
    "v5e": Chip(197e12, 16e9, 819e9, {8: 100e9, 64: 100e9, 256: 200e9}),
    "v5p": Chip(459e12, 95e9, 2765e9, {8: 300e9, 64: 600e9, 256: 600e9}),
    # NVLink inside a node of 8; beyond it the node's 8 x 400 Gb/s, which all its chips share.
    "h100": Chip(989e12, 80e9, 3350e9, {8: 450e9, 64: 400e9, 256: 400e9}),
}
LARGEST = 12  # movements of a decoding step to print
ATTAINED = {"flops": 0.45, "memory_rate": 0.7, "link_rate": 0.7}  # assumed


# Compiled programs


def devices(target: str, count: int) -> list:
    """Returns simulated CPU devices, or the TPU chips of a topology, without any hardware."""
    if target == "cpu":
        return jax.devices()[:count]
    from jax.experimental import topologies

    # Without these libtpu asks the metadata server which machine it runs on.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_WORKER_ID="0")
    shape = min(size for size in TOPOLOGIES[target] if size >= count)
    name = f"{target}:{TOPOLOGIES[target][shape]}"
    return topologies.get_topology_desc(name, platform="tpu").devices[:count]


def make_plan(settings: schema.Parallel, target: str, data: int) -> Plan:
    grid = np.array(devices(target, data * settings.fsdp)).reshape(data, settings.fsdp)
    return Plan(settings.mode, Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2))


def training_step(settings: schema.Config, model: BaseModel, plan: Plan, length: int):
    """Compiles a step; returns it and the shapes of its arguments: state, base, batch."""
    params = abstract_params(model)
    step, state, batch = training(settings, make_control(settings, model), params, length)
    rows = NamedSharding(plan.mesh, PartitionSpec(None, AXES))
    given = plan.abstract(state), plan.abstract(params), _placed(batch, rows)
    return make_step(*step, plan).lower(*given).compile(), given


def decoding_call(settings: schema.Config, model: BaseModel, plan: Plan, length: int):
    """Compiles a loop of `length` new tokens after prompts of `length`, one sample per prompt.

    Returns it and the shapes of its arguments: variables and a state.
    """
    mesh = local_mesh(plan)
    control, params = make_control(settings, model), abstract_params(model)
    trained = jax.eval_shape(lambda: control.init(jax.random.key(0), params, 0.5))
    variables = jax.eval_shape(control.policy_variables, params, trained)
    sampler = Sampler(control.policy, Method(1.0, 0, 1.0), (0,), length, mesh=mesh)
    rows = settings.decode.batch
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    each = jax.ShapeDtypeStruct((rows,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(sampler.prefill, variables, Prompts(tokens, each), each, key)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def by_row(x):
        parts = PartitionSpec(*mesh.axis_names) if x.ndim else PartitionSpec()
        return _placed(x, NamedSharding(mesh, parts))

    given = _placed(variables, everywhere), jax.tree.map(by_row, state)
    return Sampler.decode.lower(sampler, *given).compile(), given


def _placed(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def device_bytes(tree) -> int:
    """Returns the bytes of sharded shapes on each device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def memory(compiled) -> dict[str, int]:
    """Returns the compiler's bytes per device."""
    found = compiled.memory_analysis()
    out = {
        "argument_bytes": found.argument_size_in_bytes,
        "temp_bytes": found.temp_size_in_bytes,
        "output_bytes": found.output_size_in_bytes,
        "aliased_bytes": found.alias_size_in_bytes,
    }
    return out | {"peak_bytes": sum(out.values()) - 2 * out["aliased_bytes"]}


# Collectives in compiled text

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


class Collective(NamedTuple):
    kind: str
    bytes: int  # of the result on each device; of a reduce-scatter's input
    times: float  # per call of the program
    origin: str  # the operation's name in the source


def collectives(text: str) -> list[Collective]:
    """Returns all collectives of one call of a compiled program.

    Those in loops count once per iteration; the parts of an asynchronous one, which share a
    channel, count once. On TPUs a reduce-scatter is a computation of that name around an
    all-reduce, whose channel is to be ignored.
    """
    bodies, entry = memory_traffic.computations(text)
    found = {}

    def visit(name, times):
        scatters = name.startswith("all-reduce-scatter")
        for line in bodies[name]:
            op = re.search(rf" = (.*?) ({_KINDS})(-start)?\(", line)
            if op:
                channel = re.search(r"channel_id=(\d+)", line)
                origin = re.search(r'op_name="([^"]*)"', line)
                kind = "reduce-scatter" if scatters else op[2]
                found[(kind, channel[1]) if channel and not scatters else line] = Collective(
                    kind, _result_bytes(op[1], op[3]), times, origin[1] if origin else ""
                )
            loop = re.search(r" while\(.*condition=%([\w.-]+), body=%([\w.-]+)", line)
            if loop:
                visit(loop[2], times * _trips(line, bodies[loop[1]]))
            for callee in re.findall(r"(?:calls|to_apply|_computations?)=\{?%([\w.-]+)", line):
                visit(callee, times)

    visit(entry, 1)
    return list(found.values())


def _trips(line, condition):
    """Iterations of a loop; nan where the text does not say, and then all its bytes are nan."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    limits = re.findall(r" [su]32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    return int(limits[0]) if len(limits) == 1 else math.nan


def _result_bytes(shapes, begins):
    sizes = [
        memory_traffic.WIDTHS[kind] * math.prod(map(int, filter(None, dims.split(","))))
        for kind, dims in re.findall(r"\b([a-z]+\d+|pred)\[([\d,]*)\]", shapes)
    ]
    return sizes[1] if begins and len(sizes) > 1 else sum(sizes)  # (operand, result, flags ..)


def volume(found: list[Collective]) -> dict[str, int]:
    """Returns the bytes per call of each kind."""
    out = {}
    for one in found:
        out[one.kind] = out.get(one.kind, 0) + one.bytes * one.times
    return out


# Counted by hand


class Layer(NamedTuple):
    """Sizes of a layer of any architecture."""

    width: int  # D
    heads: int  # of queries
    queries: int  # width of all query heads together
    keys: int  # width of all key heads together, and of all value heads
    inner: int  # width of all that the MLP keeps for its gradient
    matrices: list[tuple[int, int]]  # (in, out)


def layer_of(model: BaseModel) -> Layer:
    config: Any = model.config
    if model.model_type == "gpt2":
        D, F = config.n_embd, config.inner
        matrices = [(D, 3 * D), (D, D), (D, F), (F, D)]
        return Layer(D, config.n_head, D, D, 2 * F, matrices)
    D, F, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    N, M = heads * config.head_dim, config.num_key_value_heads * config.head_dim
    matrices = [(D, N), (D, M), (D, M), (N, D), (D, F), (D, F), (F, D)]
    return Layer(D, heads, N, M, 3 * F, matrices)


def work(settings: schema.Config, model: BaseModel, rows: int, length: int) -> dict[str, float]:
    """Counts the FLOPs of a training step's matrix products on one device, and the bytes that it
    must at least move through memory, for a base under `merge` with low-rank changes of all
    matrices of its layers.

    `published` runs all tokens through base and policy, and backward through the policy to the
    delta; `regression` runs half of them through base and policy and backward, and half through
    base and policy. Each pass computes logits over the vocabulary, and one with a gradient also
    their mean.
    """
    layer, layers, rank = layer_of(model), model.num_layers, settings.delta.rank
    D, V, width = layer.width, model.vocab_size, jnp.dtype(model.dtype).itemsize
    remat = settings.base.remat
    published = settings.train.objective == "published"
    tokens = rows * length * (1 if published else 0.5)
    scored = tokens * (length - 1) / length  # nothing follows the last token
    forward, adapted, products = (2, 1, 3) if published else (4, 2, 5)
    forward, adapted = forward + remat, adapted + remat
    kernels = layers * sum(i * o for i, o in layer.matrices)
    factors = layers * rank * sum(i + o for i, o in layer.matrices)
    attention = layers * 2 * length * layer.queries  # scores, and weighted values
    multiplied = tokens * (
        kernels * (forward + 1) + attention * (forward + 2) + factors * (adapted + 2)
    )
    norm = 4 * D * D + 4 * D
    multiplied += scored * (V * D * products + norm * 2)
    chunks = -(-scored // vocab.CHUNKS["tpu"])
    moved = (forward + 1) * kernels * width + products * chunks * V * D * width
    moved += 2 * scored * products * V * 4  # logits, written and read
    kept = tokens * kept_bytes(model, length)
    trained = trainable_parameters(settings, model)
    micro = settings.train.accumulate
    return {
        "flops": micro * 2 * multiplied,
        # Value, 2 moments and gradient of what is trained: read and written.
        "moved_bytes": micro * (moved + 2 * kept) + 32 * trained,
        "trainable_parameters": trained,
        "kept_bytes": kept,
    }


def trainable_parameters(settings: schema.Config, model: BaseModel) -> int:
    control, params = make_control(settings, model), abstract_params(model)
    trained = jax.eval_shape(lambda: control.init(jax.random.key(0), params, 0.5))
    return sum(leaf.size for leaf in jax.tree.leaves(trained))


def kept_bytes(model: BaseModel, length: int) -> int:
    """Returns the bytes kept per token between the policy's forward and backward passes.

    With remat: each block's input. Without: of each norm the normalised state in float32 and the
    result; queries, keys and values; the attention's weights (float32, and rounded) and result; the
    MLP's inner states before and after its nonlinearity.
    """
    layer, width = layer_of(model), jnp.dtype(model.dtype).itemsize
    if model.config.remat:
        return model.num_layers * width * layer.width
    norms = 2 * (4 + width) * layer.width
    attention = 2 * width * (layer.queries + layer.keys) + (4 + width) * layer.heads * length
    return model.num_layers * (norms + attention + width * layer.inner)


def step_needs(model: BaseModel, given: tuple, rows: int) -> dict[str, int]:
    """Counts the bytes that a decoding step must at least move on each device: weights and caches
    read once, all slots of them, and logits written once. Of an embedding that is not the output
    head too it reads a row per token.
    """
    variables, state = given
    weights = device_bytes(variables)
    if not getattr(model.config, "tie_word_embeddings", True):
        table = variables["params"]["embed_tokens"]["embedding"]
        weights -= (table.shape[0] - rows) * table.shape[1] * table.dtype.itemsize
    return {
        "weights": weights,
        "cache": device_bytes(state.carry),
        "logits": 4 * rows * model.vocab_size,
    }


def step_moves(text: str) -> dict[str, int]:
    """Returns the bytes that a step of a decoding loop moves through main memory, by what moves
    them: the operation's name in the source, of all layers together.
    """
    moved = Counter()
    for one in memory_traffic.traffic(text):
        if one.in_loop:
            name = re.sub(r"(layers|h)_\d+", r"\1", one.origin.split("while/body/")[-1])
            moved[f"read: {name}"] += one.read
            moved[f"written: {name}"] += one.written
    return dict(moved)


def seconds(chip: Chip, chips: int, needs: dict, sent: dict[str, int]) -> dict[str, float]:
    """Returns the seconds of a step if compute, memory and communication overlap ("least"), and if
    communication overlaps with nothing ("most").

    An all-reduce sends every byte around a ring twice.
    """
    out = {
        "compute": needs["flops"] / (chip.flops * ATTAINED["flops"]),
        "memory": needs["moved_bytes"] / (chip.memory_rate * ATTAINED["memory_rate"]),
        "send": 0.0,
    }
    if chips > 1:
        around = sum((2 if kind == "all-reduce" else 1) * size for kind, size in sent.items())
        rate = chip.link_rate[chips] * ATTAINED["link_rate"]
        out["send"] = around * (chips - 1) / chips / rate
    alone = max(out["compute"], out["memory"])
    return out | {"least": max(alone, out["send"]), "most": alone + out["send"]}


# Records


def sized(settings: schema.Config, base: str, layers: int) -> BaseModel:
    """A base of a size, in the precision of a configuration, with so many layers."""
    model = parse_model(BASES[base] | {"num_hidden_layers": layers}, f"size {base}")
    precision = settings.base
    return model.replace(
        dtype=precision.dtype, param_dtype=precision.param_dtype, remat=precision.remat
    )


def figures(program, given: tuple) -> dict:
    found, counted = collectives(program.as_text()), program.cost_analysis()
    return {
        "given_bytes": [device_bytes(tree) for tree in given],
        **memory(program),
        "sent_bytes": volume(found),
        "collectives": sum(one.times for one in found),
        "in_loops": sum(one.times > 1 for one in found),
        # The body of a loop counts once.
        "xla_flops": counted["flops"],
        "xla_bytes": counted["bytes accessed"],
    }


def carried_on(few: dict, many: dict, depths: list[int], depth: int) -> dict:
    """Extrapolates figures of two depths linearly to `depth`."""

    def line(a, b):
        if isinstance(a, dict):
            return {name: line(a.get(name, 0), b.get(name, 0)) for name in a | b}
        if isinstance(a, list):
            return [line(*both) for both in zip(a, b)]
        return round(a + (b - a) * (depth - depths[0]) / (depths[1] - depths[0]))

    return line(few, many)


def record(settings: schema.Config, args: argparse.Namespace) -> dict:
    plan = make_plan(settings.parallel, args.target, args.data)
    depth = BASES[args.base]["num_hidden_layers"]
    began, found = time.monotonic(), []
    for layers in args.depths:
        model = sized(settings, args.base, layers)
        if args.decode:
            program, given = decoding_call(settings, model, plan, args.length)
            needs, moves = step_needs(model, given, args.rows), step_moves(program.as_text())
            step = {"needed_bytes": needs, "moved_bytes": moves}
        else:
            (program, given), step = training_step(settings, model, plan, args.length), {}
        found.append(figures(program, given) | step)
    out = {"base": args.base, "target": args.target, "data": args.data, "fsdp": args.fsdp}
    out |= {"rows": args.rows, "length": args.length, "remat": settings.base.remat}
    out |= {"objective": "decode" if args.decode else settings.train.objective}
    out |= {"control": settings.control.kind, "layers": depth, "compiled_layers": args.depths}
    out |= {"compile_s": round(time.monotonic() - began)}
    out |= carried_on(*found, args.depths, depth)
    out["fits"] = [name for name, chip in CHIPS.items() if out["peak_bytes"] < chip.memory]
    if args.decode:
        moves = out["moved_bytes"]
        total = sum(moves.values())
        out["moved_bytes"] = dict(Counter(moves).most_common(LARGEST)) | {"total": total}
        return out | {"bytes_ratio": round(total / sum(out["needed_bytes"].values()), 3)}
    if settings.control.kind != "merge":
        return out
    needs = work(settings, sized(settings, args.base, depth), args.rows, args.length)
    times = {
        f"{name} x {chips}": {k: round(v, 5) for k, v in seconds(chip, chips, needs, sent).items()}
        for name, chip in CHIPS.items()
        for chips, sent in ((1, {}), *((n, out["sent_bytes"]) for n in chip.link_rate))
    }
    if settings.train.accumulate == 1 and args.rows * args.length <= vocab.CHUNKS["tpu"]:
        out["flops_ratio"] = round(out["xla_flops"] / needs["flops"], 3)  # no loop runs twice
    return out | needs | {"seconds": times}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", help="a .toml file; its sizes of the base are ignored")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--base", choices=BASES, default="gpt2-large")
    parser.add_argument("--target", choices=["cpu", *TOPOLOGIES], default="v5e", help="compiler")
    parser.add_argument("--data", type=int, default=1, help="size of the data axis")
    parser.add_argument("--fsdp", type=int, default=1, help="size of the fsdp axis")
    parser.add_argument("--rows", type=int, default=16, help="per device and micro-batch")
    parser.add_argument("--length", type=int, default=64, help="tokens")
    parser.add_argument("--depths", type=int, nargs=2, default=[2, 4], help="layers to compile")
    parser.add_argument("--decode", action="store_true", help="the decoding loop, not the step")
    args = parser.parse_intermixed_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 256 if args.target == "cpu" else 1)
    devices = args.data * args.fsdp
    settings = load_config(args.config, ["task.source=none", *args.overrides])
    rows = args.rows * devices * settings.train.accumulate
    settings = changed(
        settings,
        [f"parallel.fsdp={args.fsdp}", f"train.batch={rows}", f"decode.batch={rows}"],
    )
    with compiling_for("cpu" if args.target == "cpu" else "tpu"):
        print(json.dumps(record(settings, args)))


if __name__ == "__main__":
    main()

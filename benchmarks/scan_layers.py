"""Blocks one after another against one block scanned over stacked parameters and caches.

    python benchmarks/scan_layers.py --size gpt2 --rows 8 --length 64 --repeats 5

Prints a line of JSON for each way and program, a gradient and a decoding loop: compile time,
seconds and temporary bytes.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from dinado_jax.bench.sizes import SIZES
from dinado_jax.models.architectures import parse_model
from dinado_jax.models.cache import KV, LayerCache
from dinado_jax.models.gpt2 import Block

PROMPT = 16


def unrolled(block, layers, x):
    """Applies block(parameters and cache of a layer, x) -> (x, cache) for all layers."""
    caches = []
    for layer in layers:
        x, kept = block(layer, x)
        caches.append(kept)
    return x, caches


def scanned(block, layers, x):
    return jax.lax.scan(lambda x, layer: block(layer, x), x, layers)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def gradient(config, through):
    def block(params, x):
        return Block(config).apply({"params": params}, x, None)[0], None

    return jax.grad(lambda layers, x: (through(block, layers, x)[0] ** 2).sum(), argnums=1)


def decoding(config, through, lengths, steps):
    """Returns a loop of `steps` tokens; the input of each is the state of the one before."""

    def step(state, slot):
        def block(layer, x):
            params, prompt, own = layer
            past = LayerCache(prompt, (own,), lengths, slot)
            x, own = Block(config).apply({"params": params}, x, past)
            return x, (params, prompt, own)

        layers, x = state
        x, layers = through(block, layers, x)
        return (layers, x), None

    return lambda layers, x: jax.lax.scan(step, (layers, x), jnp.arange(steps))[0]


GPT2_SIZES = [name for name, sizes in SIZES.items() if sizes["model_type"] == "gpt2"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=GPT2_SIZES, default="gpt2")
    for name, default in (("rows", 8), ("length", 64), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    config = parse_model(SIZES[args.size], args.size).config
    x = jax.random.normal(jax.random.key(0), (args.rows, args.length, config.n_embd))
    init = jax.jit(lambda key: Block(config).init(key, x, None)["params"])
    params = [init(jax.random.key(layer)) for layer in range(config.n_layer)]
    heads, width = args.rows * config.n_head, config.n_embd // config.n_head
    prompt, own = (KV(z, z) for z in (jnp.zeros((heads, n, width)) for n in (PROMPT, args.length)))
    caches = [(each, prompt, own) for each in params]
    lengths = jnp.full(args.rows, PROMPT)
    programs = {}
    for way, through in (("unrolled", unrolled), ("scanned", scanned)):
        pack = stacked if way == "scanned" else list
        made = {
            "gradient": (gradient(config, through), pack(params), x),
            "decoding": (decoding(config, through, lengths, args.length), pack(caches), x[:, :1]),
        }
        for name, (function, *given) in made.items():
            began = time.monotonic()
            call = jax.jit(function).lower(*given).compile()
            taken = time.monotonic() - began
            programs[name, way] = call, given, taken, []
    for _ in range(args.repeats + 1):
        for call, given, _, seconds in programs.values():
            began = time.perf_counter()
            jax.block_until_ready(call(*given))
            seconds.append(time.perf_counter() - began)
    for (name, way), (call, _, compile_s, seconds) in programs.items():
        record = {"program": name, "way": way, "size": args.size, "rows": args.rows}
        record |= {"compile_s": round(compile_s, 2), "seconds": statistics.median(seconds[1:])}
        record["temp_bytes"] = call.memory_analysis().temp_size_in_bytes
        print(json.dumps(record | {"device": jax.devices()[0].device_kind}), flush=True)


if __name__ == "__main__":
    main()

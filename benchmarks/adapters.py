"""A base tuned to a task as a whole, by a LoRA, by a prefix and by a prompt, side by side.

    python benchmarks/adapters.py CONFIG --base BASE --out DIR [--ways none lora prefix prompt]
        [--seeds 0] [--settings KEY=VALUE ..] [--unrelated TEXT] [--prompts 992]

Runs the stage sft of a configuration from BASE, once for each way and seed, and continues the dev
split greedily. Prints a line of JSON each: parameters that are stored, nats per token of the dev
split's references, BLEU-4 and CIDEr of the greedy texts with bootstrap intervals over prompts,
seconds of training, and with --unrelated the nats per token of another text's lines after their
first word, which tells what was forgotten. The first line is BASE itself. What is finished in DIR
is read there. Settings that a way does not read are left out for it, so that a rank and a number of
positions of equally many parameters can be given together: --settings sft.rank=1 sft.positions=8.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from losses import losses, pairs_of_lines

import dinado_jax
from dinado_jax.evaluation.intervals import bootstrap_interval_of_sums
from dinado_jax.evaluation.text_metrics import METRICS
from dinado_jax.language_model import Base
from dinado_jax.metrics.protocol import Item
from dinado_jax.models.params import by_path
from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.settings import load_config
from dinado_jax.tasks.protocol import Example

WAYS = {"none": "", "lora": "sft.rank", "prefix": "sft.positions", "prompt": "sft.positions"}


def nats_per_token(base: Base, pairs: list[tuple[str, str]]) -> float:
    """Of the texts that fit the context with their prompts."""
    nats, tokens = losses(base, pairs).sum(0)
    return round(float(nats / tokens), 4)


def figures(
    base: Base, examples: Sequence[Example], unrelated: list[tuple[str, str]], new: int
) -> dict:
    """What is measured of a base."""
    prompts = [example.prompt for example in examples]
    pairs = [(example.prompt, text) for example in examples for text in example.references]
    found: dict = {"dev_nats_per_token": nats_per_token(base, pairs)}
    made = base.generate(prompts, temperature=0.0, max_new_tokens=new)
    items = [
        Item(example.prompt, (text.text,), example.references)
        for example, text in zip(examples, made, strict=True)
    ]
    for name in ("coco_bleu_4", "cider"):
        measured = METRICS[name].measure(items)
        found[name] = round(measured.value, 4)
        if measured.sums is not None:
            interval = bootstrap_interval_of_sums(measured.sums, seed=0)
            found[f"{name}_interval"] = [round(end, 4) for end in interval]
    if unrelated:
        found["unrelated_nats_per_token"] = nats_per_token(base, unrelated)
    return found


def stored(start: Base, tuned: Base) -> int:
    """The parameters of a tuned base that its start does not have."""
    before, after = by_path(start.params), by_path(tuned.params)
    return sum(
        leaf.size
        for path, leaf in after.items()
        if path not in before or np.any(np.asarray(leaf) != np.asarray(before[path]))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--base", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--unrelated", type=Path, help="a text file, one line each")
    parser.add_argument("--prompts", type=int, default=992)
    args = parser.parse_args()
    unrelated = pairs_of_lines(args.unrelated) if args.unrelated else []
    given = [f"base.path={args.base}", f"evaluate.prompts={args.prompts}", "sft.pretrain_steps=0"]
    start = dinado_jax.load(args.base)
    for seed, way in [(0, None), *itertools.product(args.seeds, args.ways)]:
        own = [f"sft.adapter={way}"] if way else []
        others = {*WAYS.values()} - {WAYS.get(way or "")}
        own += [each for each in args.settings if each.partition("=")[0] not in others]
        config = load_config(args.config, [*given, *own, f"seed={seed}"])
        folder = args.out / f"{way}_{seed}"
        line, begun = {"way": way or "the base", "seed": seed}, time.perf_counter()
        base = start
        if way:
            run_stages(config, ["sft"], folder)
            line["seconds"] = round(time.perf_counter() - begun)
            base = dinado_jax.load(folder / "sft" / "base")
            line["stored_parameters"] = stored(start, base)
        examples = Context.of(config, folder).held_out
        print(json.dumps(line | figures(base, examples, unrelated, config.decode.max_new_tokens)))


if __name__ == "__main__":
    main()

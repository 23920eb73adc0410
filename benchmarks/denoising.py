r"""A denoiser that begins as a masked language model, one that begins at random, and an
autoregressive model of as many parameters, on pairs of short sentences.

    python benchmarks/denoising.py PAIRS --out FOLDER [--seeds 0 1 2] [--steps 800] ..

PAIRS has lines "source\ttarget", of which the first, a header, is left out. Pairs in which a side
has more than --longest words are left out, too; sources are unique. Twice --held-out of them are
not trained on: one half is measured, the other with --dev, to choose settings. In FOLDER, where a
stopped run goes on, are

    masked/          a masked language model, pretrained on both sides of the training pairs, each
                     by itself or in one row
    masked_SEED/     denoisers that begin as it; random_SEED/ with its tokenizer, at random
    causal_SEED/     a run of stage sft: a GPT-2 of about as many parameters, on the same pairs
    distilled_SEED.jsonl  its greedy translations of the training sources; with --distilled the
                     denoisers of the seed learn these in place of the pairs (sequence-level
                     distillation, Kim and Rush, arXiv 1606.07947)
    records.jsonl    a line of JSON for each measurement, which the script prints as well

BLEU is sacrebleu's, of held-out sources, greedy for the autoregressive model; `reranked` takes of
the candidates of a denoiser that model's likeliest. Speeds are sentences per second, text in and
text out, medians of --repeats in turns.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from dinado_jax.denoising.distillation import distil
from dinado_jax.denoising.model import from_masked
from dinado_jax.denoising.pretraining import new_masked, pretrain
from dinado_jax.denoising.settings import Decoding, Parts, Sizes
from dinado_jax.denoising.writer import Writer, fit_writer, load_writer
from dinado_jax.language_model import Base
from dinado_jax.loading import load_base
from dinado_jax.models.bert import Bert, init_params
from dinado_jax.models.bert_checkpoint import MaskedModel, load_masked
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import abstract_params
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.settings import load_config
from dinado_jax.tasks.protocol import Example
from dinado_jax.tasks.translation import grouped
from dinado_jax.training.settings import Training
from dinado_jax.utils.files import read_lines

KINDS = ("masked", "random")
WHAT = ("bleu", "speed")
STEPS = (1, 2, 4, 8, 10)


def read(path: Path, longest: int, held_out: int) -> tuple[list[Example], ...]:
    """Pairs to train on, to choose settings by and to measure, whose sources are disjoint."""
    pairs = [line.split("\t")[:2] for line in read_lines(path)[1:]]
    short = [pair for pair in pairs if max(len(side.split()) for side in pair) <= longest]
    examples = grouped([(source, [target.strip()]) for source, target in short])
    order = np.random.default_rng(0).permutation(len(examples))
    chosen = [examples[index] for index in order]
    return chosen[2 * held_out :], chosen[:held_out], chosen[held_out : 2 * held_out]


def size(params: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def causal_sizes(wanted: int, vocabulary: int, width: int, heads: int) -> dict[str, int]:
    """Of the GPT-2 of that width whose number of parameters is nearest."""
    found = {}
    for layers in range(1, 33):
        config = GPT2Config(vocabulary, 64, width, layers, heads)
        found[layers] = abs(size(abstract_params(GPT2(config))) - wanted)
    return {
        "n_layer": min(found, key=lambda layers: found[layers]),
        "n_embd": width,
        "n_head": heads,
    }


def bleu(examples: list[Example], texts: list[str]) -> float:
    from sacrebleu.metrics.bleu import BLEU

    most = max(len(one.references) for one in examples)  # sacrebleu ignores repeated ones
    columns = [[one.references[n % len(one.references)] for one in examples] for n in range(most)]
    return round(BLEU().corpus_score(texts, columns).score, 2)


class Records:
    """Lines of JSON by what they are of; those that are there are not made again."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()
        lines = map(json.loads, path.read_text().splitlines())
        self.made = {self._key(line): line for line in lines}

    @staticmethod
    def _key(line: dict) -> str:
        names = ("what", "kind", "seed", "steps", "batch")
        return json.dumps([line.get(name) for name in names])

    def measure(self, what: dict, measured: Callable[..., dict], *args) -> None:
        if self._key(what) in self.made:
            return
        line = self.made[self._key(what)] = what | measured(*args)
        print(json.dumps(line), flush=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def training(args: argparse.Namespace, steps: int, rate: float, seed: int = 0) -> Training:
    how = {"batch": args.batch, "warmup": args.warmup, "save_every": 500}
    return Training(steps=steps, learning_rate=rate, seed=seed, **how)


def train_masked(args: argparse.Namespace, train: list[Example]) -> MaskedModel:
    """The masked language model, from its folder where it is there."""
    folder = args.out / "masked"
    if not (folder / "config.json").exists():
        texts = list(dict.fromkeys(text for one in train for text in (one.prompt, *one.references)))
        rows = train if args.pretrain_on == "pairs" else texts
        sizes = Sizes(args.layers, args.width, args.heads, args.positions, args.vocabulary)
        how = training(args, args.pretrain_steps, args.pretrain_rate)
        new, own = new_masked(texts, sizes), folder / "training"
        pretrain(rows, new, how, mask_rate=args.mask_rate, folder=own).save(folder)
    return load_masked(folder)


def train_denoiser(
    args: argparse.Namespace, train: list[Example], masked: MaskedModel, kind: str, seed: int
) -> Writer:
    folder = args.out / f"{kind}_{seed}"
    if (folder / "model").exists():
        return load_writer(folder / "model")
    if kind == "random":
        params = init_params(Bert(masked.model.config), jax.random.key(seed))
        masked = dataclasses.replace(masked, params=params)
    how = training(args, args.steps, args.rate, seed)
    writer = fit_writer(masked, train, how, Parts(args.max_length), folder=folder)
    writer.save(folder / "model")
    return writer


def train_causal(args: argparse.Namespace, seed: int, wanted: int) -> Base:
    """A base of stage sft on the same pairs."""
    folder = args.out / f"causal_{seed}"
    settings = causal_sizes(wanted, args.vocabulary, args.width, args.heads)
    settings |= {"vocab_size": args.vocabulary, "n_positions": 64}
    settings = {f"base.{name}": value for name, value in settings.items()}
    sft = {"steps": args.causal_steps, "batch": args.batch, "max_length": 64, "weight_decay": 0.01}
    sft |= {"learning_rate": args.causal_rate, "warmup": args.warmup}
    settings |= {f"sft.{name}": value for name, value in sft.items()}
    settings |= {"task.name": "pairs", "task.source": args.out / "pairs.jsonl"}
    settings |= {"task.held_out": 0.0, "seed": seed, "name": folder.name, "run.folder": args.out}
    # What the later stages would need.
    settings |= {"run.save_every": 500, "rollout.oracle": "length <= 9", "delta.rank": 1}
    config = args.out / "causal.toml"
    config.write_text("")
    overrides = [f"{name}={value}" for name, value in settings.items()]
    run_stages(load_config(config, overrides), ("sft",), folder)
    return load_base(str(folder / "sft" / "base"))


def distilled(args: argparse.Namespace, base: Base, train: list[Example], seed: int) -> list:
    """The training sources with the greedy translations of an autoregressive model."""
    path = args.out / f"distilled_{seed}.jsonl"
    if not path.exists():
        made = distil(base, train, max_new_tokens=args.max_length + 1, batch=256)
        lines = [json.dumps([one.prompt, *one.references]) + "\n" for one in made]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(lines))
        partial.replace(path)
    pairs = map(json.loads, path.read_text().splitlines())
    return [Example(source, (text,)) for source, text in pairs]


def decoding(args: argparse.Namespace, steps: int, lengths: int) -> Decoding:
    own = {"temperature": args.temperature, "share": args.share, "order": args.order}
    return Decoding(steps=steps, lengths=lengths, **own)


def greedy(args: argparse.Namespace, base: Base, prompts: list[str], batch: int = 64) -> list[str]:
    most = args.max_length + 1
    made = base.generate(prompts, temperature=0.0, max_new_tokens=most, batch=batch)
    return [one.text for one in made]


def bleu_of_causal(args: argparse.Namespace, base: Base, held_out: list[Example]) -> dict:
    found = {"bleu": bleu(held_out, greedy(args, base, [one.prompt for one in held_out]))}
    return {**found, "parameters": size(base.params), "model": str(base.model)}


def bleu_of_denoiser(writer: Writer, how: Decoding, base: Base, held_out: list[Example]) -> dict:
    prompts, found = [one.prompt for one in held_out], {}
    for name, by in (("bleu", None), ("reranked", base)):
        made = writer.write(prompts, how, rerank=by)
        found[name] = bleu(held_out, [one.text for one in made])
    return {**found, "parameters": size(writer.params), **dataclasses.asdict(how)}


def speeds(
    args: argparse.Namespace, base: Base, writer: Writer, prompts: list[str], batch: int
) -> dict:
    """Sentences per second of every way; a single sentence is one of eight in turn."""
    some = prompts[: max(batch, 8)]
    parts = [some[start : start + batch] for start in range(0, len(some), batch)]
    ways: dict[str, Callable[[list[str]], object]] = {
        "causal": lambda part: greedy(args, base, part, batch)
    }
    for lengths in sorted({1, args.lengths}):
        for steps in STEPS:
            how = decoding(args, steps, lengths)
            name = f"{steps} steps, {lengths} lengths"
            ways[name] = functools.partial(writer.write, decoding=how, batch=batch)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.repeats + 1):  # the first round compiles
        for name, way in ways.items():
            began = time.perf_counter()
            for part in parts:
                way(part)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {name: round(len(some) / each, 2) for name, each in medians.items()}


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    train, dev, test = read(args.pairs, args.longest, args.held_out)
    held_out = dev if args.dev else test
    lines = [{"prompt": one.prompt, "target": list(one.references)} for one in train]
    whole = "".join(json.dumps(line) + "\n" for line in lines)
    (args.out / "pairs.jsonl").write_text(whole)
    records, prompts = Records(args.out / "records.jsonl"), [one.prompt for one in held_out]
    masked = train_masked(args, train)
    wanted = size(from_masked(masked, Parts(args.max_length))[1])
    for seed in args.seeds:
        base = train_causal(args, seed, wanted)
        pairs = distilled(args, base, train, seed) if args.distilled else train
        writers = {kind: train_denoiser(args, pairs, masked, kind, seed) for kind in args.kinds}
        if "bleu" in args.measure:
            what = {"what": "bleu", "kind": "causal", "seed": seed, "steps": 0}
            records.measure(what, bleu_of_causal, args, base, held_out)
            for kind, steps in itertools.product(args.kinds, STEPS):
                how = decoding(args, steps, args.lengths)
                what = {"what": "bleu", "kind": kind, "seed": seed, "steps": steps}
                records.measure(what, bleu_of_denoiser, writers[kind], how, base, held_out)
        if "speed" in args.measure and seed == args.seeds[0]:
            for batch in (1, 32):
                what = {"what": "sentences per second", "seed": seed, "batch": batch}
                records.measure(what, speeds, args, base, writers[args.kinds[0]], prompts, batch)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--pretrain-on", choices=("texts", "pairs"), default="texts")
    parser.add_argument("--distilled", action="store_true")
    parser.add_argument("--measure", nargs="+", choices=WHAT, default=WHAT, help="speed: of a seed")
    parser.add_argument("--order", default="confidence")
    parser.add_argument("--dev", action="store_true", help="measure on the other held-out pairs")
    for name, default in (
        ("longest", 8), ("held-out", 500), ("layers", 3), ("width", 192), ("heads", 4),
        ("positions", 24), ("vocabulary", 4096), ("max-length", 16), ("batch", 128),
        ("pretrain-steps", 1000), ("steps", 800), ("causal-steps", 800), ("warmup", 100),
        ("lengths", 3), ("repeats", 5),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (
        ("pretrain-rate", 2e-3), ("rate", 1e-3), ("causal-rate", 2e-3), ("temperature", 0.0),
        ("share", 1.0), ("mask-rate", 0.15),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=float, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()

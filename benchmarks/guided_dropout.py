"""Fine-tuning on few and many pairs of CommonGen under no, uniform, Gaussian and guided dropout.

    python benchmarks/guided_dropout.py COMMONGEN CAPTIONS --out FOLDER [--shares 0.1 0.5 1]
        [--seeds 0 1 2] [--dropouts none uniform gaussian guided] [--rate 0.1] [--steps 500]
        [--pretrain-steps 1200] [--size KEY=VALUE ..] [--settings KEY=VALUE ..] [--time REPEATS]
        [--unrelated TEXT]

A small base is pretrained once, on keyword examples mined from CAPTIONS, plain text, of which
guided dropout takes its scores too. A cell is `dinado sft` of that base, with the same number of
steps whatever the share of the pairs; a seed chooses the pairs, their order and the noise. Its
figures are of the dev split of COMMONGEN: nats per token of the references that fit in the context,
and BLEU-4 of greedy texts. Of TEXT, one line each, it is nats per token after a line's first word,
which tell what was forgotten; the base's are printed first.

Cells that are done are not repeated: what was stopped goes on with the same command. Writes
FOLDER/records.jsonl, prints a line of JSON per cell, and at the end a table: means over seeds, and
the central 95% of bootstrap samples of prompts, those of all seeds together; of differences from
no dropout, on the same prompts. --time measures a training step of each kind instead, in turns:
medians, and their ratio to no dropout. A cell takes one to two minutes on one core.

    python benchmarks/guided_dropout.py COMMONGEN CAPTIONS --out STUDY --shares 0.1
"""

import argparse
import functools
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
from losses import losses, pairs_of_lines

import dinado_jax
from dinado_jax.data.batching import Epochs
from dinado_jax.data.sequences import sequences
from dinado_jax.evaluation.intervals import bootstrap_interval_of_sums, compare
from dinado_jax.generation import generate
from dinado_jax.metrics.bleu import coco_bleu
from dinado_jax.metrics.protocol import Item, Sums
from dinado_jax.models.dropout import Dropout, uniform
from dinado_jax.objectives.sft import likelihood, with_noise
from dinado_jax.stages.settings import load_config
from dinado_jax.tasks.commongen import examples
from dinado_jax.training.fisher import rank_schedule
from dinado_jax.training.optimizer import optimizer
from dinado_jax.training.step import init_state, make_step, split_micro_batches

KINDS = ("none", "uniform", "gaussian", "guided")
KEYS = ("share", "seed", "dropout")
CONFIG = Path(__file__).parents[1] / "configs" / "commongen_small.toml"
SIZE = ("vocab_size=2048", "n_positions=64", "n_embd=64", "n_layer=2", "n_head=4")
COMMON = ("sft.max_length=44", "sft.warmup=50", "run.save_every=500")
FIGURES = {
    "dev_nats_per_token": "{:.4f}",
    "bleu_4": "{:.2f}",
    "unrelated_nats_per_token": "{:.4f}",
}


def sft(folder: Path, settings: list[str]) -> str:
    """Runs the stage on a folder; returns what it says if it fails."""
    run = [sys.executable, "-m", "dinado_jax", "sft", str(CONFIG), "--out", str(folder), "--quiet"]
    done = subprocess.run([*run, *COMMON, *settings], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def subset(args: argparse.Namespace, share: float, seed: int) -> Path:
    """A folder with that share of the training pairs, and the dev split."""
    folder = args.out / "data" / f"share{share:g}_seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(e.prompt, ref) for e in examples(args.commongen, "train") for ref in e.references]
    chosen = np.random.default_rng(seed).permutation(len(pairs))[: round(share * len(pairs))]
    dev = [(e.prompt, ref) for e in examples(args.commongen, "dev") for ref in e.references]
    for split, rows in (("train", [pairs[index] for index in np.sort(chosen)]), ("dev", dev)):
        lines = [
            json.dumps({"concepts": prompt.removesuffix(" =").split(), "scene": text})
            for prompt, text in rows
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def pretrained(args: argparse.Namespace) -> Path:
    """The folder of the base that all cells begin with."""
    settings = [f"base.{each}" for each in args.size]
    settings += [f"task.source={args.commongen}", f"sft.pretrain_path={args.captions}"]
    settings += [f"sft.pretrain_steps={args.pretrain_steps}", "sft.steps=0", *args.settings]
    if fault := sft(args.out / "base", settings):
        raise SystemExit(fault)
    return args.out / "base" / "sft" / "base"


def run(args: argparse.Namespace, base: Path, share: float, seed: int, dropout: str) -> dict:
    """Runs a cell of the study, or continues it."""
    record = dict(zip(KEYS, (share, seed, dropout), strict=True))
    folder = args.out / f"share{share:g}_seed{seed}_{dropout}"
    settings = [f"seed={seed}", f"base.path={base}", f"task.source={subset(args, share, seed)}"]
    settings += ["sft.pretrain_steps=0", f"sft.steps={args.steps}", f"sft.dropout={dropout}"]
    if dropout != "none":
        settings.append(f"sft.dropout_rate={args.rate}")
    if dropout == "guided":
        settings.append(f"sft.pretrain_path={args.captions}")
    if fault := sft(folder, [*settings, *args.settings]):
        return {**record, "error": fault}
    done = json.loads((folder / "sft" / "done.json").read_text())
    logged = (folder / "sft" / "sft.jsonl").read_text().splitlines()
    sums = measured(args, dinado_jax.load(folder / "sft" / "base"))
    return {
        **record,
        "rows": done["figures"]["sft_rows"],
        "seconds": done["seconds"],
        "last_training_loss": round(np.mean([json.loads(x)["loss"] for x in logged[-10:]]), 4),
        **{name: round(value(of(name, rows)), 5) for name, rows in sums.items()},
        "of_prompts": {name: rows.round(4).tolist() for name, rows in sums.items()},
    }


def measured(args: argparse.Namespace, base: dinado_jax.Base) -> dict[str, np.ndarray]:
    """What each figure is a function of, a row per dev prompt."""
    dev = examples(args.commongen, "dev")[: args.prompts]
    pairs = [(each.prompt, reference) for each in dev for reference in each.references]
    number = [number for number, each in enumerate(dev) for _ in each.references]
    loss = np.zeros((len(dev), 2))
    np.add.at(loss, number, losses(base, pairs))
    made = generate(base, [each.prompt for each in dev], max_new_tokens=24, temperature=0.0)
    items = [Item(e.prompt, (one.text,), e.references) for e, one in zip(dev, made, strict=True)]
    sums = coco_bleu(4)(items).sums
    assert sums is not None
    return {"dev_nats_per_token": loss, "bleu_4": sums.rows, **unrelated(args, base)}


def unrelated(args: argparse.Namespace, base: dinado_jax.Base) -> dict[str, np.ndarray]:
    """The figure of another text as a function of sums over its lines; none without a text."""
    if not args.unrelated:
        return {}
    return {"unrelated_nats_per_token": losses(base, pairs_of_lines(args.unrelated))}


def of(name: str, rows: np.ndarray) -> Sums:
    """The figure of that name as a function of sums over prompts."""
    if name.endswith("nats_per_token"):
        return Sums(rows, lambda sums: sums[:, 0] / sums[:, 1])
    some = coco_bleu(4)([Item("", ("a",), ("a",))]).sums
    assert some is not None
    return Sums(rows, lambda sums: 100 * some.value(sums))


def value(sums: Sums) -> float:
    """The figure of all prompts."""
    return float(sums.value(sums.rows.sum(0, keepdims=True))[0])


def table(records: list[dict]) -> str:
    """The figures by share and kind, and their differences from no dropout, as Markdown."""
    found: dict[tuple, dict[int, dict]] = defaultdict(dict)
    for record in records:
        if "error" not in record:
            found[record["share"], record["dropout"]][record["seed"]] = record
    lines = []
    present = {name for own in found.values() for record in own.values() for name in record}
    for name, form in FIGURES.items():
        if name not in present:
            continue
        lines += ["", f"| pairs | dropout | {name} | minus none | each seed minus none |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for (share, kind), own in sorted(
            found.items(), key=lambda x: (x[0][0], KINDS.index(x[0][1]))
        ):
            none = found.get((share, "none"), {})
            seeds = sorted(own.keys() & none.keys()) or sorted(own)
            mine = of(name, sum(np.array(own[seed]["of_prompts"][name]) for seed in seeds))
            cell = [value(mine), *bootstrap_interval_of_sums(mine, 0)]
            row = [f"{share:.0%}", kind, "{} ({} to {})".format(*map(form.format, cell))]
            if kind != "none" and none:
                other = of(name, sum(np.array(none[seed]["of_prompts"][name]) for seed in seeds))
                gap = compare(other, mine, 0)
                row.append(
                    "{} ({} to {})".format(*map(form.format, (gap.difference, *gap.interval)))
                )
                each = (own[seed][name] - none[seed][name] for seed in seeds)
                row.append(", ".join(map(form.format, each)))
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines[1:])


def timed(args: argparse.Namespace, folder: Path) -> None:
    """Prints a line for each kind: milliseconds of a training step, in turns."""
    base = dinado_jax.load(folder)
    dev = examples(args.commongen, "dev")
    prompts = base.codec.prompts([each.prompt for each in dev])
    targets = base.codec.targets([each.references[0] for each in dev])
    rows = sequences(prompts, targets, base.codec.eos_id, 44)
    given = [f"task.source={args.commongen}", "sft.pretrain_steps=0", *args.settings]
    settings = load_config(CONFIG, given).sft
    batch_at = with_noise(Epochs(rows, settings.batch, 0).at, 0)
    batch = jax.device_put(split_micro_batches(batch_at(0), 1))
    sites = base.model.dropout_sites
    schedule = rank_schedule(dict(zip(sites, range(len(sites)))), args.rate)
    kinds = {
        "none": None,
        "uniform": uniform(sites, args.rate),
        "gaussian": uniform(sites, args.rate, gaussian=True),
        "guided": Dropout(tuple(schedule.items())),
    }
    programs, states, seconds = {}, {}, {kind: [] for kind in kinds}
    for kind, dropout in kinds.items():
        terms = functools.partial(likelihood, base.model, None, dropout=dropout)
        transform = optimizer(settings, 1000)
        programs[kind] = make_step(terms, transform)
        states[kind] = init_state(jax.tree.map(jax.numpy.array, base.params), transform)
    for _ in range(args.time + 1):
        for kind, step in programs.items():
            began = time.perf_counter()
            states[kind], _ = jax.block_until_ready(step(states[kind], None, batch))
            seconds[kind].append(time.perf_counter() - began)
    taken = {kind: statistics.median(found[1:]) for kind, found in seconds.items()}
    for kind, each in taken.items():
        record = {"dropout": kind, "step_ms": round(1000 * each, 2)}
        print(json.dumps({**record, "to_none": round(each / taken["none"], 3)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commongen")
    parser.add_argument("captions")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dropouts", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--pretrain-steps", type=int, default=1200)
    parser.add_argument("--prompts", type=int, help="of the dev split, all by default")
    parser.add_argument(
        "--size", nargs="+", default=list(SIZE), metavar="KEY=VALUE", help="of base"
    )
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="of all")
    parser.add_argument("--time", type=int, default=0, metavar="REPEATS")
    parser.add_argument("--unrelated", type=Path, metavar="TEXT")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    base = pretrained(args)
    if args.time:
        return timed(args, base)
    for name, rows in unrelated(args, dinado_jax.load(base)).items():
        print(
            json.dumps({"dropout": "the base", name: round(value(of(name, rows)), 5)}), flush=True
        )
    path = args.out / "records.jsonl"
    records = list(map(json.loads, path.read_text().splitlines())) if path.exists() else []
    done = {tuple(record[key] for key in KEYS) for record in records}
    # Seeds first, so that a study that is stopped has all kinds of some.
    for cell in itertools.product(args.shares, args.seeds, args.dropouts):
        if cell in done:
            continue
        record = run(args, base, *cell)
        print(json.dumps({key: x for key, x in record.items() if key != "of_prompts"}), flush=True)
        if "error" not in record:
            records.append(record)
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()

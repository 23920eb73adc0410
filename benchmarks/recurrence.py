"""A small GPT-2 on novels, in windows with recurrence between them and in plain windows.

    python benchmarks/recurrence.py TEXT --out FILE.jsonl [--seeds 0 1 2] [--steps 2000]
        [--rate 2e-3] [--width 96] [--layers 3] [--vocabulary 2048] [--window 128] [--rows 16]
        [--windows 4] [--held-out 6] [--evaluated 400]

TEXT has documents that each begin with a line <<<NAME>>>. Every eleventh is held out, so many of
them, each cut to so many thousand characters. Both ways train all parameters from the same random
start, on the same windows in the same order and by the same code: in plain windows every window has
an empty memory. For each seed and way that FILE lacks it gets, and the script prints, a line of
JSON: perplexity of the held-out documents, nats per token of each, and the FLOPs of a token,
attention left out, relative to plain windows. Of the plain model `overlapping` is the perplexity in
windows that overlap by half, where the later half alone is predicted: about twice the FLOPs of a
token. Of the recurrent one `emptied` is the perplexity without its memories. A stopped run goes on.
"""

import argparse
import json
import re
import time
from pathlib import Path

import jax
import numpy as np

from dinado_jax.models.codec import Codec
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import load_codec, train_codec
from dinado_jax.recurrence.likelihood import likelihood
from dinado_jax.recurrence.module import Recurrence
from dinado_jax.recurrence.recurrent import documents_of
from dinado_jax.recurrence.scoring import document_nats
from dinado_jax.recurrence.settings import Training
from dinado_jax.recurrence.training import train
from dinado_jax.recurrence.windows import Documents, Streams, Windows
from dinado_jax.training.standalone import plan_of
from dinado_jax.utils.files import read_text

WAYS = ("plain", "recurrent")
ROWS = 32  # overlapping windows at once


class Plain(Streams):
    """Streams in which every window begins with an empty memory."""

    def at(self, step: int) -> Windows:
        found = super().at(step)
        found.begins[:] = True
        return found


def tokenizer(folder: Path, texts: list[str], vocabulary: int) -> Codec:
    if not folder.exists():
        lines = [line for text in texts for line in text[:100_000].splitlines() if line.strip()]
        train_codec(lines, vocabulary).save(folder)
    return load_codec(folder)


def overlapping(recurrence: Recurrence, variables: dict, own: dict, rows: Documents) -> np.ndarray:
    """float64 [N, 2], nats and tokens, in windows that begin with an empty memory and half of the
    window before."""
    T, half, figures = recurrence.window, recurrence.window // 2, np.zeros((len(rows), 2))
    read = jax.jit(likelihood, static_argnums=0)
    for document in range(len(rows)):
        windows = rows.at(rows.windows_of(document)[None])
        parts = [row[1:length] for row, length in zip(windows.tokens[0], windows.length[0])]
        row = np.concatenate([windows.tokens[0, 0, :1], *parts])
        starts = np.arange(0, max(1, len(row) - half), half)
        starts = np.pad(starts, (0, -len(starts) % ROWS), constant_values=len(row))
        row = np.pad(row, (0, T))
        for some in starts.reshape(-1, ROWS):
            length = np.clip(len(row) - T - some, 0, T).astype(np.int32)
            known = np.where(some, T - half, 1).astype(np.int32)
            tokens = np.stack([row[start : start + T] for start in np.minimum(some, len(row) - T)])
            columns = {"tokens": tokens, "prompt_length": known, "length": length}
            columns["begins"] = np.ones(ROWS, bool)
            batch = Windows(**{name: x[:, None] for name, x in columns.items()})
            nats, _ = read(recurrence, variables, own, recurrence.empty(ROWS), batch)
            figures[document] += np.asarray(nats, np.float64).sum(), batch.targets.sum()
    return figures


def relative_flops(recurrence: Recurrence) -> float:
    D, M, hidden = recurrence.model.width, recurrence.width, recurrence.hidden
    network = 2 * (D * hidden + hidden * hidden + hidden * M) / (recurrence.window - 1)
    return 1 + (network + 2 * M) / recurrence.model.flops_per_token


def perplexity(found: np.ndarray) -> float:
    nats, tokens = found.sum(0)
    return round(float(np.exp(nats / tokens)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rate", type=float, default=2e-3)
    for name, default in (
        ("steps", 2000), ("width", 96), ("layers", 3), ("heads", 4), ("vocabulary", 2048),
        ("window", 128), ("rows", 16), ("windows", 4), ("held-out", 6), ("evaluated", 400),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    novels = re.split(r"<<<.+>>>\n", read_text(args.text))[1:]
    rest = [text for index, text in enumerate(novels) if index % 11 != 10]
    held_out = [text[: 1000 * args.evaluated] for text in novels[10::11][: args.held_out]]
    codec = tokenizer(args.out.with_suffix(".tokenizer"), rest, args.vocabulary)
    sizes = {"n_positions": args.window, "n_embd": args.width, "n_layer": args.layers}
    model = GPT2(GPT2Config(vocab_size=len(codec.tokenizer), n_head=args.heads, **sizes))
    recurrence = Recurrence(model, args.layers, 1, args.window)
    rows, judged = (documents_of(codec, texts, args.window) for texts in (rest, held_out))
    args.out.touch()
    lines = [json.loads(line) for line in args.out.read_text().splitlines()]
    done = {(line["seed"], line["way"]) for line in lines}
    for seed, way in ((seed, way) for seed in args.seeds for way in WAYS):
        if (seed, way) in done:
            continue
        begun = time.perf_counter()
        how = {"steps": args.steps, "batch": args.rows, "windows": args.windows}
        training = Training(**how, learning_rate=args.rate, warmup=100, seed=seed, save_every=50)
        streams = {"plain": Plain, "recurrent": Streams}[way](rows, args.rows, args.windows, seed)
        folder = args.out.with_suffix("") / f"{way}_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        start, one = init_params(model, seed), plan_of(training.batch, None)
        params, own = train(recurrence, start, streams, training, folder, one)
        variables, blank = {"params": params}, jax.tree.map(np.zeros_like, own)
        found = document_nats(recurrence, variables, own, judged)
        line = {"way": way, "seed": seed, "perplexity": perplexity(found)}
        if way == "plain":
            others = overlapping(recurrence, variables, blank, judged)
            line |= {"overlapping": perplexity(others), "flops": 1.0}
        else:
            others = document_nats(recurrence, variables, blank, judged)
            line |= {"emptied": perplexity(others), "flops": round(relative_flops(recurrence), 4)}
        line["nats_per_token"] = (found[:, 0] / found[:, 1]).round(4).tolist()
        line["tokens"], line["epochs"] = int(found[:, 1].sum()), args.steps / streams.per_epoch
        line["seconds"] = round(time.perf_counter() - begun)  # of this process
        line |= {"rate": args.rate, **how, "window": args.window, "model": str(model)}
        print(json.dumps(line), flush=True)
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

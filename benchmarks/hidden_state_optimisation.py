"""What updating the cache while reading gains: bits per token of a text, few-shot accuracy.

    python benchmarks/hidden_state_optimisation.py text BASE FILE --out OUT
    python benchmarks/hidden_state_optimisation.py few-shot BASE FILE --words 0=bad 1=good --out OUT

BASE is what `dinado_jax.load` takes. FILE is a text, of which `--characters` from its beginning
choose the step size and as many from its middle are reported; or labelled texts (.jsonl, .csv,
.tsv), the first half of which, in random order, chooses the step size and the second half is
reported. Within a half, prompts are drawn from all but `--texts` examples, which are classified,
the same after every prompt.

Every measurement is a line of OUT; stopped, the same command continues. At the end prints, as JSON,
the reported part without updates and with the chosen step size, and their paired difference:
intervals are a bootstrap over windows of the text, or over prompts.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import dinado_jax
from dinado_jax.evaluation.few_shot import classify, draw, read_examples
from dinado_jax.evaluation.intervals import bootstrap_interval_of_sums, compare
from dinado_jax.hidden_states.text import Reading, score_text
from dinado_jax.metrics.protocol import Sums
from dinado_jax.utils.files import read_lines

PARTS = ("tune", "report")


class Measurements:
    """Lines of a file, of which none is measured twice."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {json.dumps(row["key"]): row for row in map(json.loads, lines)}

    def measure(self, key: dict, rows: Callable[[], list]) -> list:
        """The rows [N, 2] of that key: a sum, and of how many."""
        name = json.dumps(key)
        if name not in self.known:
            began = time.perf_counter()
            row = {"key": key, "rows": rows(), "seconds": round(time.perf_counter() - began, 1)}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.known[name] = row
        return self.known[name]["rows"]


def bits(sums: np.ndarray) -> np.ndarray:
    """Bits per token of sums [N, 2] of nats and tokens."""
    return sums[:, 0] / sums[:, 1] / math.log(2)


def accuracy(sums: np.ndarray) -> np.ndarray:
    """The share that is right, of sums [N, 2] of right ones and all."""
    return sums[:, 0] / sums[:, 1]


def text_rows(args: argparse.Namespace, base: dinado_jax.Base, measurements: Measurements):
    """A function from (part, step size) to rows of the windows of a text."""
    text = "\n".join(read_lines(args.file))
    starts = dict(zip(PARTS, (0, len(text) // 2)))

    def rows(part: str, step_size: float) -> list:
        key = {"part": part, "step_size": step_size, "chunk": args.chunk, "window": args.window}
        key |= {"characters": args.characters, "base": args.base, "file": args.file.name}
        own = text[starts[part] : starts[part] + args.characters]
        reading = Reading(step_size, args.chunk)

        def measured() -> list:
            found = score_text(base, own, reading, window=args.window, batch=args.batch)
            return [[round(-float(each.sum()), 3), len(each)] for each in found]

        return measurements.measure(key, measured)

    return rows


def few_shot_rows(args: argparse.Namespace, base: dinado_jax.Base, measurements: Measurements):
    """A function from (part, step size) to rows of the prompts drawn."""
    examples = read_examples(args.file)
    order = np.random.default_rng(args.seed).permutation(len(examples))
    halves = {
        part: [examples[i] for i in own] for part, own in zip(PARTS, np.array_split(order, 2))
    }
    words = dict(pair.split("=", 1) for pair in args.words)

    def rows(part: str, step_size: float) -> list:
        texts, pool = halves[part][: args.texts], halves[part][args.texts :]
        found = []
        for number in range(args.draws if part == "report" else args.tuning_draws):
            key = {"part": part, "draw": number, "step_size": step_size, "chunk": args.chunk}
            key |= {"shots": args.shots, "texts": args.texts, "seed": args.seed}
            key |= {"base": args.base, "file": args.file.name, "words": words}

            def measured(number: int = number) -> list:
                prompt, _ = draw(pool, args.shots, (args.seed, number))
                labels = classify(
                    base,
                    prompt,
                    [each.text for each in texts],
                    Reading(step_size, args.chunk),
                    words=words,
                    batch=args.batch,
                )
                right = [label == each.label for label, each in zip(labels, texts, strict=True)]
                return [[sum(right), len(texts)]]

            found += measurements.measure(key, measured)
        return found

    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("text", "few-shot"))
    parser.add_argument("base")
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--step-sizes", type=float, nargs="+", default=(0.003, 0.01, 0.03, 0.1))
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--window", type=int, help="of the text, tokens (the base's context)")
    parser.add_argument("--characters", type=int, default=50_000)
    parser.add_argument("--words", nargs="+", default=(), metavar="LABEL=WORD")
    parser.add_argument("--shots", type=int, default=4, help="of each label")
    parser.add_argument("--texts", type=int, default=50)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--tuning-draws", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    base, measurements = dinado_jax.load(args.base), Measurements(args.out)
    of_text = args.what == "text"
    rows = (text_rows if of_text else few_shot_rows)(args, base, measurements)
    value, sign = (bits, -1) if of_text else (accuracy, 1)

    def measured(part: str, step_size: float) -> Sums:
        return Sums(np.array(rows(part, step_size), np.float64), value)

    def total(sums: Sums) -> float:
        return float(sums.value(sums.rows.sum(0, keepdims=True))[0])

    tuning = {size: total(measured("tune", size)) for size in (0.0, *args.step_sizes)}
    best = max(args.step_sizes, key=lambda size: sign * tuning[size])
    plain, updated = measured("report", 0.0), measured("report", best)
    difference = compare(plain, updated, args.seed)
    print(
        json.dumps(
            {
                "what": args.what,
                "base": args.base,
                "file": args.file.name,
                "tuning": {str(size): round(found, 4) for size, found in tuning.items()},
                "step_size": best,
                "counted": int(plain.rows[:, 1].sum()),
                "draws": len(plain.rows),
                "plain": round(total(plain), 4),
                "plain_interval": bootstrap_interval_of_sums(plain, args.seed),
                "updated": round(total(updated), 4),
                "updated_interval": bootstrap_interval_of_sums(updated, args.seed),
                "difference": round(difference.difference, 4),
                "difference_interval": difference.interval,
                "p": difference.p_value,
            }
        )
    )


if __name__ == "__main__":
    main()

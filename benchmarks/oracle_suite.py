"""One recipe, many oracles: runs a configuration with each oracle below, nothing else changed.

    python benchmarks/oracle_suite.py --out FOLDER [--seeds 20 21 22] [--oracles NAME ..]
        [--config configs/demo.toml] [--settings KEY=VALUE ..]

Runs of one seed share the base. Finished runs are not repeated, and stopped ones continue. Prints a
line of JSON per run, and at the end a table of means over seeds: success, KL (nats per sequence),
its floor by prompt, efficiency, the calibration error of V(prompt), the share of texts that ended
by themselves, nats per token under the base beside those of the base's own successes, rollouts and
seconds of training. With the demo's configuration a run takes 3 minutes on 2 cores.

The words are those of the demo's captions, and common in English. `noisy` can be learned only up to
its noise: it shows what a run does then.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

COLOURS = {"red", "blue", "green", "yellow", "white", "black", "brown"}
SIZES = {"big", "small", "old", "young", "tall"}
NUMBERS = {"two", "three", "many", "some"}
PLACES = {"street", "water", "field", "beach", "park", "road", "market", "lake", "river", "garden"}
TIMES = {"night", "lunch", "dinner", "morning", "sunday", "winter"}

Oracle = Callable[[Sequence[str], Sequence[str]], list[float]]
ORACLES: dict[str, str] = {"keywords": ""}  # name -> rollout.oracle; the task's own


def oracle(judge: Callable[[list[str]], float]) -> Oracle:
    """Makes an oracle of whole texts from a judgement of one text's words."""

    def judge_all(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        return [float(judge(re.findall(r"[a-z']+", text.lower()))) for text in texts]

    ORACLES[judge.__name__] = f"oracle_suite:{judge.__name__}"
    return judge_all


def _unit(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


@oracle
def colour(words):
    return not COLOURS.isdisjoint(words)


@oracle
def size_then_colour(words):
    sizes = [place for place, word in enumerate(words) if word in SIZES]
    return bool(sizes) and not COLOURS.isdisjoint(words[sizes[0] + 1 :])


@oracle
def no_the(words):
    return "the" not in words


@oracle
def at_most_8(words):
    return len(words) <= 8


@oracle
def at_least_12(words):
    return len(words) >= 12


@oracle
def starts_plural(words):
    return words[:1] != [] and words[0] in NUMBERS


@oracle
def ends_with_time(words):
    return words != [] and words[-1] in TIMES


@oracle
def no_repeated_word(words):
    return len(set(words)) == len(words)


@oracle
def passive(words):
    return "by" in words


@oracle
def pattern(words):
    return (
        re.search(r"\b\w+ing (a|the) (\w+ )?\w+ (in|near) the ", " ".join(words) + " ") is not None
    )


@oracle
def colour_and_plural(words):
    return not COLOURS.isdisjoint(words) and words[0] in NUMBERS


@oracle
def long_words(words):
    return sum(len(word) >= 6 for word in words) / max(1, len(words))


@oracle
def classifier(words):
    """The probability of a logistic classifier with a fixed random weight for each word."""
    score = sum(2 * _unit(f"weight of {word}") - 1 for word in set(words))
    return 1 / (1 + math.exp(3 - 2 * score))


@oracle
def even(words):
    return len(words) % 2 == 0


@oracle
def noisy(words):
    """`colour` with 5% of all texts judged wrongly."""
    return (not COLOURS.isdisjoint(words)) != (_unit(" ".join(words)) < 0.05)


# Chosen after the defaults had been fixed; no run of these has changed them.


@oracle
def ends_with_place(words):
    return words != [] and words[-1] in PLACES


@oracle
def the_twice(words):
    return words.count("the") >= 2


@oracle
def exactly_9(words):
    return len(words) == 9


@oracle
def alliteration(words):
    return any(first[0] == second[0] for first, second in itertools.pairwise(words))


def run(out: Path, config: Path, seed: int, name: str, settings: list[str]) -> dict:
    """Runs the configuration with an oracle, or continues it, and returns its figures."""
    folder = out / f"seed{seed}" / name.replace(":", ".")
    shared = folder.parent / "sft"
    if shared.exists() and not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(shared, partial / "sft")
        partial.rename(folder)
    given = [f"seed={seed}", f"rollout.oracle={ORACLES.get(name, name)}", *settings]
    given += [f"run.folder={folder.parent}", f"name={folder.name}"]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "dinado_jax", "run", str(config), *given],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    if done.returncode:
        error = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"oracle": name, "seed": seed, "error": error}
    if not shared.exists():
        shutil.copytree(folder / "sft", shared)
    summary = json.loads((folder / "summary.json").read_text())
    train = json.loads((folder / "train" / "done.json").read_text())["figures"]
    rounds = [value for key, value in train.items() if key.startswith("round_")]
    base, control = summary["base"], summary["control"]
    return {
        "oracle": name,
        "seed": seed,
        "base": base["success_rate"],
        "success": control["success_rate"],
        "success_error": control["success_rate_error"],
        "kl": control["kl_to_base"],
        "floor": summary["kl_floor_by_prompt"],
        "efficiency": summary["efficiency_by_prompt"],
        "calibration": control["calibration_error"],
        "ended": control["finished"],
        "ended_base": base["finished"],
        "nats_per_token": control["log_prob_per_token"],
        "nats_per_token_of_successes": base["log_prob_per_token_of_successes"],
        "of_rounds": [round(value["newest_success_rate"], 3) for value in rounds],
        "rollouts": rounds[-1]["rollouts"],
        "train_seconds": summary["seconds"]["train"],
        "warnings": summary["warnings"],
    }


def table(records: list[dict]) -> str:
    """Means over seeds, a Markdown row per oracle."""
    columns = {
        "base": "{:.1%}",
        "success": "{:.1%}",
        "kl": "{:.2f}",
        "floor": "{:.2f}",
        "efficiency": "{:.2f}",
        "calibration": "{:.3f}",
        "ended": "{:.1%}",
        "nats_per_token": "{:.2f}",
        "nats_per_token_of_successes": "{:.2f}",
        "train_seconds": "{:.0f}",
    }
    lines = ["| oracle | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for name in dict.fromkeys(record["oracle"] for record in records):
        own = [record for record in records if record["oracle"] == name]
        means = (
            form.format(statistics.mean(record[key] for record in own))
            for key, form in columns.items()
        )
        lines.append(f"| {name} | " + " | ".join(means) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.toml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22])
    parser.add_argument(
        "--oracles", nargs="+", default=list(ORACLES), help="names here, or MODULE:NAME"
    )
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="of all")
    args = parser.parse_args()
    records = []
    for seed in args.seeds:
        for name in args.oracles:
            record = run(args.out, args.config, seed, name, args.settings)
            print(json.dumps(record), flush=True)
            records.append(record)
    whole = [record for record in records if "error" not in record]
    print(table(whole))
    sys.exit(len(whole) < len(records))


if __name__ == "__main__":
    main()

"""A finished run decoded in many ways on the same held-out prompts: one table.

    python benchmarks/decodings.py RUN --out FOLDER [--prompts 100] [--samples 2]
        [--ways base/sample masks/sample control/particles16 ..] [--hmm FOLDER ..] [--rates]
        [--prompt-file FILE] [--worst N]

A way is MODEL/METHOD. The models are `base`, `masks` (the base under the guarantee of the run's
oracle, which must have automata), `table` (of a run with control.state: the base under the table of
rates that the control begins with), `control`, `control+masks`, and of each HMM, by the name of its
FOLDER (`dinado hmm train`): `NAME` (the guarantee knows what is likely, too), `NAME.head` (with its
head) and `control+NAME` (each at half strength). The methods are `sample`, `greedy`, `beam16` (a
beam search with 16 beams, the best one) and `particles16` (one of 16 particles, chosen by the
oracle), with any number. Each way writes FOLDER/WAY.jsonl, and is not decoded again if that is
there. Prints a line of JSON per way, and a table: success, KL to the base (nats per text; of
particles an upper bound; of greedy texts and beams there is none), the share of texts that ended,
nats per token under the base, seconds of decoding with its compilation, and metrics of captions
with 95% intervals over prompts. Of particles also KL(q* || p), estimated from above. With --rates
every way is decoded once more, which compiles nothing: tokens per second of the texts that are
returned, with the constraints' preparation, and the megabytes of arrays that decoding needs besides
those of the base and of its cache: tables, automata, messages. FILE has a prompt a line, instead of
the held-out ones; without references some metrics are left out. With --worst of each way those N
texts are printed besides whose log q - log p is largest.
"""

import argparse
import dataclasses
import functools
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from dinado_jax.controls.control import Control
from dinado_jax.controls.state_table import StateTable
from dinado_jax.data.prompts import PromptSet
from dinado_jax.evaluation.aggregate import kl_of_target
from dinado_jax.evaluation.metrics import mean_and_error
from dinado_jax.evaluation.of_model import sample_of
from dinado_jax.evaluation.samples import Sample, read_samples, write_samples
from dinado_jax.evaluation.text_metrics import score
from dinado_jax.generation import generate
from dinado_jax.guarantee import guarantee
from dinado_jax.language_model import Controlled, LanguageModel, compose
from dinado_jax.loading import load_hmm
from dinado_jax.metrics.protocol import items_of
from dinado_jax.oracles.judge import judge
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.search.beams import beam_search
from dinado_jax.search.particles import sample_by_particles
from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import load_run, run_config
from dinado_jax.stages.rounds import Rounds
from dinado_jax.utils.files import read_lines

METRICS = ("coverage", "coco_bleu_4", "rouge_l", "cider_d", "distinct_2")
WITHOUT_REFERENCES = ("coverage", "distinct_2")
WAYS = (
    *("base/sample", "masks/sample", "control/sample", "control+masks/sample"),
    *("masks/particles16", "control/particles4", "control/particles16"),
    *("base/beam16", "masks/beam16", "control/beam16", "control+masks/beam16"),
)


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A run, and the prompts to continue."""

    context: Context
    prompts: list[str]
    samples: int  # of each, where they are drawn
    hmms: dict[str, Path]  # folders, by name

    def decode(self, way: str) -> list[Sample]:
        """Continues the prompts, and judges the texts."""
        name, method = way.split("/")
        model, given = self._model(name)
        settings = {
            "max_new_tokens": self.context.config.decode.max_new_tokens,
            "batch": self.context.config.decode.batch,
        }
        if count := re.fullmatch(r"particles(\d+)", method):
            made = sample_by_particles(
                model,
                given,
                self.context.oracle.function,
                particles=int(count[1]),
                samples=self.samples,
                **settings,
            )
        elif count := re.fullmatch(r"beam(\d+)", method):
            made = beam_search(model, given, beams=int(count[1]), **settings)
        elif method in ("sample", "greedy"):
            drawn = {"samples": self.samples} if method == "sample" else {"temperature": 0.0}
            made = generate(model, given, **drawn, **settings)
        else:
            raise SystemExit(f"{way}: no such method, {method}")
        labels = judge(
            self.context.oracle.function, [one.prompt for one in made], [one.text for one in made]
        ).labels
        number = {prompt: i for i, prompt in enumerate(self.prompts)}
        return [
            sample_of(number[one.prompt], one, float(label))
            for one, label in zip(made, labels, strict=True)
        ]

    def megabytes(self, way: str) -> float:
        """Of the arrays of a way's model, less those of the base."""
        model, given = self._model(way.split("/")[0])
        model, _ = model.for_prompts(given)
        leaves = jax.tree.leaves(model.variables), jax.tree.leaves(self._control.base.variables)
        of_model, of_base = (sum(leaf.nbytes for leaf in each) for each in leaves)
        return (of_model - of_base) / 1e6

    @functools.cached_property
    def _control(self) -> Controlled:
        return load_run(self.context.run.path)

    @property
    def _table(self) -> Controlled:
        context, base, control = self.context, self._control.base, self._control.control
        if not isinstance(control, Control) or control.state is None:
            raise SystemExit("table: the run has no control with state")
        drawn = context.run.path / "rollout" / "rollouts.npz"
        initial = Rollouts.load(drawn, vocab_size=base.model.vocab_size)
        rates = Rounds(context, base, control, initial).table
        guide = StateTable(base.model, control.state)
        return Controlled(base, guide, guide.init(rates), automata_of=context.automata_of)

    def _model(self, name: str) -> tuple[LanguageModel, PromptSet]:
        config, prompts = self.context.config, PromptSet(self.prompts)
        control = self._control
        if name in ("base", "control"):
            return (control.base if name == "base" else control), prompts
        if name == "table":
            return self._table, prompts
        guide = name.removeprefix("control+")
        folder = self.hmms.get(guide.removesuffix(".head"))
        if folder is None and guide != "masks":
            raise SystemExit(f"no such model, {name}")
        hmm = folder and load_hmm(folder, control.base, head=guide.endswith(".head"))
        limit, oracle = config.decode.max_new_tokens, self.context.oracle.function
        guided, prompts = guarantee(control.base, prompts, limit, oracle, hmm=hmm)
        if guide == name:
            return guided, prompts
        if hmm is None:
            return compose(control, guided), prompts
        # Both pull towards the constraint.
        return compose(control.tilted(strength=0.5), guided.tilted(strength=0.5)), prompts


def figures(
    way: str, samples: Sequence[Sample], references: Mapping[str, Sequence[str]]
) -> dict[str, float | list[float]]:
    """The figures of a way, each with its standard error or interval where it has one."""
    group = np.unique([s.prompt_id for s in samples], return_inverse=True)[1]

    def of_prompts(values: Sequence[float]) -> list[float]:
        return list(mean_and_error(np.bincount(group, values) / np.bincount(group)))

    found: dict[str, float | list[float]] = {
        "success": of_prompts([s.label for s in samples]),
        "ended": float(np.mean([s.finished for s in samples])),
        "nats_per_token": sum(s.log_prob_base for s in samples) / sum(s.tokens for s in samples),
    }
    if not way.startswith("base") and "/beam" not in way and "/greedy" not in way:
        found["kl"] = of_prompts([excess(s) for s in samples])
    if "/particles" in way:
        found["kl_of_target"] = kl_of_target(samples)
    prompts, texts = [s.prompt for s in samples], [s.text for s in samples]
    items = items_of(prompts, texts, [references[prompt] for prompt in prompts])
    metrics = METRICS if all(references.values()) else WITHOUT_REFERENCES
    for name, each in score(metrics, items).items():
        found[name] = [each.value, *each.interval] if each.interval else each.value
    return found


def line(record: dict) -> str:
    """A row of the table."""

    def cell(key: str, form: str) -> str:
        value = record.get(key, "")
        if not isinstance(value, list):
            return form.format(value) if value != "" else ""
        if len(value) == 2:
            return f"{form.format(value[0])} ± {form.format(value[1])}"
        return f"{form.format(value[0])} ({form.format(value[1])} to {form.format(value[2])})"

    shown = ("success", "{:.1%}"), ("kl", "{:.2f}"), ("kl_of_target", "{:.2f}"), ("ended", "{:.1%}")
    shown += ("nats_per_token", "{:.2f}"), *((name, "{:.3f}") for name in METRICS)
    shown += ("seconds", "{:.0f}"), ("tokens_per_s", "{:.0f}"), ("megabytes", "{:.1f}")
    return f"| {record['way']} | " + " | ".join(cell(*each) for each in shown) + " |"


def excess(sample: Sample) -> float:
    """How much likelier a text is than under the base, nats."""
    return sample.log_prob - sample.log_prob_base


def timed(decoder: Decoder, way: str) -> tuple[list[Sample], float]:
    """The texts of a way, and the seconds that they took."""
    began = time.monotonic()
    made = decoder.decode(way)
    return made, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="its folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--samples", type=int, default=2, help="of each prompt")
    parser.add_argument("--ways", nargs="+", default=WAYS, metavar="MODEL/METHOD")
    parser.add_argument("--hmm", nargs="*", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--rates", action="store_true", help="tokens per second, too")
    parser.add_argument("--prompt-file", type=Path, metavar="FILE")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="texts to print")
    args = parser.parse_args()
    context = Context.of(run_config(args.run), args.run)
    references: dict[str, Sequence[str]]
    if args.prompt_file:
        references = dict.fromkeys(read_lines(args.prompt_file), ())
    else:
        examples = context.held_out[: args.prompts]
        references = {example.prompt: example.references for example in examples}
    hmms = {folder.name: folder for folder in args.hmm}
    decoder = Decoder(context, list(references), args.samples, hmms)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for way in args.ways:
        path, seconds = args.out / f"{way.replace('/', '_')}.jsonl", math.nan
        if not path.exists():
            made, seconds = timed(decoder, way)
            write_samples(path, made)
        samples = read_samples(path)
        record = {"way": way} | figures(way, samples, references)
        record["seconds"] = seconds
        if args.rates:
            if math.isnan(seconds):
                timed(decoder, way)  # compiles
            made, seconds = timed(decoder, way)
            record["tokens_per_s"] = sum(sample.tokens for sample in made) / seconds
            record["megabytes"] = decoder.megabytes(way)
        rows.append(record)
        print(json.dumps(rows[-1]), flush=True)
        for sample in sorted(samples, key=excess, reverse=True)[: args.worst]:
            end = "" if sample.finished else ", cut"
            print(f"    {sample.prompt} {sample.text} ({excess(sample):.1f} nats{end})", flush=True)
    columns = ["way", "success", "KL", "KL of q*", "ended", "nats per token", *METRICS]
    columns += ["s", "tokens/s", "MB"]
    print(f"\n| {' | '.join(columns)} |")
    print("|" + " --- |" * len(columns))
    print("\n".join(map(line, rows)))


if __name__ == "__main__":
    main()

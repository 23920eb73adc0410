"""Stage generate: held-out prompts continued by the base and by the controlled model."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from dinado_jax.data.prompts import PromptSet
from dinado_jax.distributed.processes import is_main
from dinado_jax.evaluation.samples import Sample, write_samples
from dinado_jax.evaluation.stage_figures import GenerateFigures
from dinado_jax.evaluation.token_values import write_token_values
from dinado_jax.guides.tilt import Tilt
from dinado_jax.language_model import Base, Composed, Controlled, LanguageModel, compose
from dinado_jax.rollouts.collect import Collected, Collector
from dinado_jax.stages.artifacts import guaranteed, trained_model
from dinado_jax.stages.context import Context
from dinado_jax.stages.shown_values import shown_values
from dinado_jax.stages.works import other_strengths


def _samples(collected: Collected, values: np.ndarray) -> Iterator[Sample]:
    """Yields the samples; values [P] are V of each prompt."""
    rows = collected.rollouts
    for i, (prompt, text) in enumerate(zip(collected.prompts, collected.texts, strict=True)):
        yield Sample(
            prompt_id=int(rows.prompt_id[i]),
            prompt=prompt,
            text=text,
            label=float(rows.label[i]),
            log_prob=float(rows.log_proposal[i]),
            log_prob_base=float(rows.log_base[i]),
            tokens=int(rows.length[i] - rows.prompt_length[i]),
            finished=bool(rows.finished[i]),
            value=float(values[rows.prompt_id[i]]),
        )


def generate(context: Context) -> GenerateFigures:
    """Writes generate/base.jsonl and generate/control.jsonl, one judged sample per line,
    generate/values.jsonl, R after each token of some of them, and for each of evaluate.strengths
    generate/strengths/STRENGTH.jsonl.
    """
    folder, decode = context.run.stage_folder("generate"), context.config.decode
    tilt = Tilt.of(decode)
    controlled = dataclasses.replace(trained_model(context), tilt=tilt)
    fingerprint = context.run.fingerprint("generate")
    collector = Collector(context.oracle_calls, decode, fingerprint, context.mesh)
    key = jax.random.key((context.config.seed + 1) % 2**32)  # another stream than that of rollouts
    prompts = PromptSet(
        [example.prompt for example in context.held_out], names=list(context.prompt_file) or None
    )
    sure, known = None, prompts
    if decode.guarantee:
        sure, known = guaranteed(context, controlled.base, prompts, decode.max_new_tokens)

    def at(strength: float) -> Controlled | Composed:
        tilted = dataclasses.replace(controlled, tilt=dataclasses.replace(tilt, strength=strength))
        return tilted if sure is None else compose(tilted, sure)

    def sample(
        name: str, model: LanguageModel, own: PromptSet, samples: int, shards: Path
    ) -> Collected:
        what = f"generate {name}"
        if decode.particles and not isinstance(model, Base):
            return collector.sample_by_particles(
                what, model, own, samples, decode.particles, key, shards
            )
        return collector.sample(what, model, own, samples, key, shards)

    count = context.config.evaluate.samples
    collected = {
        "base": sample("base", controlled.base, prompts, count, folder / "base_shards"),
        "control": sample("control", at(decode.strength), known, count, folder / "control_shards"),
    }
    curve = {
        strength: sample(
            f"strength {strength}", at(strength), known, 1, folder / f"strength_{strength}_shards"
        )
        for strength in other_strengths(context.config)
    }
    values = controlled.prompt_values(prompts.texts, decode.batch)
    samples = {name: list(_samples(each, values)) for name, each in collected.items()}
    rollouts = {name: each.rollouts for name, each in collected.items()}
    shown = shown_values(controlled, prompts, samples, rollouts, decode.batch)
    if is_main():
        for name, each in samples.items():
            write_samples(folder / f"{name}.jsonl", each)
        write_token_values(folder / "values.jsonl", shown)
        for strength, each in curve.items():
            (folder / "strengths").mkdir(exist_ok=True)
            write_samples(folder / "strengths" / f"{strength}.jsonl", _samples(each, values))
    return GenerateFigures(
        len(prompts.texts),
        collected["base"].failures,
        collected["control"].failures,
        sum(each.failures for each in curve.values()),
        sum(len(each.rollouts) for each in curve.values()),
    )

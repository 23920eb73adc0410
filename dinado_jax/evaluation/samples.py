"""The judged samples of a run, one JSON object per line of generate/*.jsonl."""

import dataclasses
import json
import typing
from collections.abc import Iterable
from pathlib import Path

from dinado_jax.errors import InputError
from dinado_jax.utils.files import exists, parse_json, read_lines, validate


@dataclasses.dataclass(frozen=True)
class Sample:
    """A continuation of a prompt, judged by the oracle."""

    prompt_id: int  # number of the prompt, in the order of the prompts
    prompt: str
    text: str
    label: float  # of the oracle, in [0, 1]
    # Nats per sequence, under the distribution that was decoded. That of one chosen among particles
    # has no density: log_prob_base plus the excess of `decoding.particles.choose`.
    log_prob: float
    log_prob_base: float  # nats per sequence, under the base
    tokens: int  # new ones, an end of text included
    finished: bool  # whether it ended with an end of text
    value: float  # V(prompt), the success rate of the base that the control predicts


_SCHEMA = typing.get_type_hints(Sample)


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Writes a file atomically."""
    partial = path.with_name(path.name + ".partial")
    lines = [json.dumps(dataclasses.asdict(sample)) for sample in samples]
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)


def read_samples(path: Path) -> list[Sample]:
    """Reads a file of the generate stage.

    Raises:
      InputError: if it is missing, empty or damaged.
    """
    if not exists(path):
        raise InputError(f"no samples in {path}: run the generate stage first")
    fix = "delete the generate stage's folder and run it again"
    samples = []
    for number, line in enumerate(read_lines(path, fix), start=1):
        where = f"{path}:{number}"
        row = validate(parse_json(line, where, fix), _SCHEMA, where, fix)
        samples.append(Sample(**{name: row[name] for name in _SCHEMA}))
    if not samples:
        raise InputError(f"no samples in {path}: {fix}")
    return samples

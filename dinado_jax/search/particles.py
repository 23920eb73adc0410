"""Text in, text out by sequential Monte Carlo: each text is one of N particles that grow together.

Where a guide leads a text into a dead end, another particle takes its place, and the oracle itself
has the last word. What is drawn is nearer to q* than the guide: decoding/particles.py.

S texts of each prompt, N particles of each text.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dinado_jax.data.prompts import PromptSet
from dinado_jax.data.sequences import pad
from dinado_jax.decoding.batching import restore_order
from dinado_jax.decoding.particles import (
    Particles,
    ParticleSampler,
    choose,
    floored,
    particles_of_prompts,
)
from dinado_jax.errors import InputError, quote
from dinado_jax.generation import Decodable, begin, names_of, rows_at_once
from dinado_jax.oracles.callables import named_oracle
from dinado_jax.oracles.judge import judge, require_labels
from dinado_jax.utils import arguments


class GuidedModel(Decodable, Protocol):
    """A base under guides."""

    def for_particles(self) -> Decodable:
        """The same distribution, decoded with the base beside it."""
        ...


@dataclasses.dataclass(frozen=True, repr=False)
class Particle:
    """A text that was chosen among N particles."""

    prompt: str
    text: str
    tokens: np.ndarray  # int32 [tokens], the stop token included
    log_probs_base: np.ndarray  # float32 [tokens] nats under the base p
    finished: bool  # ended by itself, not cut at max_new_tokens
    label: float  # of the oracle, in [0, 1]; 0 if all N have 0, or it failed on all of them
    # Nats: log C minus the log of the particles' estimate of R0, the base's success rate. The mean
    # over texts is an upper bound of their KL to the base.
    excess: float

    @property
    def log_prob(self) -> float:
        """Nats under the base, plus the excess."""
        return float(self.log_probs_base.sum()) + self.excess

    def __repr__(self) -> str:
        end = "finished" if self.finished else "cut"
        return (
            f"Particle({quote(self.prompt)} -> {quote(self.text)}, {len(self.tokens)} tokens, "
            f"{end}; label {self.label:.2g}, {self.log_probs_base.sum():.2f} nats in the base, "
            f"excess {self.excess:.2f})"
        )


def sample_by_particles(
    model: GuidedModel,
    prompts: Sequence[str] | PromptSet,
    oracle: str | Callable[..., Any],
    *,
    particles: int = 16,
    max_new_tokens: int | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: int = 64,
) -> list[Particle]:
    """Continues each prompt `samples` times, each time with one of `particles` texts that grow
    together under the model's guides.

    A text depends on its prompt, its number and the seed, not on the batch around it.

    Args:
      model: a base under a control, or several.
      prompts: as for `generate`.
      oracle: as for `evaluate`: it judges all particles. One on which it fails is not chosen.
      particles: N, 2 or more.
      max_new_tokens: as for `generate`.
      samples: S.
      seed: in [0, 2^32).
      batch: particles drawn at once; N if that is more.

    Returns:
      The texts, prompt by prompt.

    Raises:
      InputError: as for `generate` and `evaluate`, and where all N come to a dead end.
    """
    count = require_particles(model, particles)
    samples = arguments.require_integer("samples", samples, *arguments.POSITIVE)
    key = jax.random.key(arguments.require_seed(seed))
    given = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    asked = arguments.require_texts("prompt", given.texts)
    judged = named_oracle(oracle, asked).function
    named = dataclasses.replace(given, texts=asked, names=given.names or names_of(asked))
    sets, how = named.repeated(samples), Drawing(count, max_new_tokens, key, batch)
    texts, found = draw_particles(model.for_particles(), sets, how)
    _require_one_alive(found, count, sets)
    result = judge(judged, sets.repeated(count).texts, texts)
    require_labels(judged, result)
    label = np.where(result.failed, 0.0, result.labels).reshape(-1, count)
    log_weight = np.where(result.failed, -np.inf, found.log_weight).reshape(-1, count)
    chosen, excess = choose(floored(log_weight), label, key)
    return [
        Particle(
            prompt=prompt,
            text=texts[row],
            tokens=found.tokens[row, : found.length[row]],
            log_probs_base=found.log_base[row, : found.length[row]],
            finished=bool(found.finished[row]),
            label=float(label.flat[row]),
            excess=float(over),
        )
        for prompt, row, over in zip(sets.texts, np.arange(len(chosen)) * count + chosen, excess)
    ]


def _require_one_alive(found: Particles, count: int, sets: PromptSet) -> None:
    dead = (found.log_weight == -np.inf).reshape(-1, count).all(1)
    if dead.any():
        raise InputError(
            f"prompt {quote(sets.texts[int(dead.argmax())])}, all {count} particles come to a dead "
            "end, where the guides forbid every token: draw more particles, give more "
            "max_new_tokens, or ease the guides"
        )


def require_particles(model: Any, particles: Any) -> int:
    """Returns the number of particles. InputError if it is below 2, or the model has no guide."""
    count = arguments.require_integer("particles", particles, "at least 2", lambda x: x >= 2)
    if not hasattr(model, "for_particles"):
        raise InputError("particles follow a guide: give a base under a control, not a base alone")
    return count


class Drawing(NamedTuple):
    """How particles are drawn."""

    particles: int  # N
    max_new_tokens: int | None
    key: jax.Array  # typed PRNG key
    batch: int  # particles drawn at once


def draw_particles(
    model: Decodable,
    sets: PromptSet,
    how: Drawing,
    retained: Sequence[Sequence[int]] | None = None,
) -> tuple[list[str], Particles]:
    """N particles of each prompt of `sets`, together, and their texts.

    Args:
      model: as `GuidedModel.for_particles` returns it.
      sets: prompts, with names.
      how: see there.
      retained: the tokens of a text for each prompt, at most `max_new_tokens`, that is one of its
        particles; see `ParticleSampler.__call__`.
    """
    model, prompts, tokens, new_tokens = begin(model, sets, how.max_new_tokens)
    codec = model.base.codec
    sampler = ParticleSampler(model.policy, codec.stop_ids, new_tokens, how.particles)
    rows = rows_at_once(len(prompts) * how.particles, how.batch)
    kept = None if retained is None else pad(retained, codec.eos_id, new_tokens)
    parts = particles_of_prompts(sampler, model.variables, tokens, how.key, rows, kept)
    found = restore_order(*zip(*parts))
    targets = zip(found.tokens, found.length)
    return codec.decode([row[:length].tolist() for row, length in targets]), found

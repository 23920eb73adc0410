"""Continues prompts with the model of a finished run, as often as wanted."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from dinado_jax.data.prompts import PromptSet
from dinado_jax.errors import InputError
from dinado_jax.generation import Completion, Piece, generate
from dinado_jax.guides.tilt import Tilt
from dinado_jax.language_model import Composed, Controlled, compose
from dinado_jax.search.beams import beam_search
from dinado_jax.search.particles import Particle, sample_by_particles
from dinado_jax.stages.artifacts import guaranteed
from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import load_run, run_config
from dinado_jax.stages.settings import with_decoding
from dinado_jax.utils.arguments import POSITIVE, require_integer, require_seed


class _Sampling(TypedDict):
    """Arguments of both ways to sample."""

    max_new_tokens: int | None
    samples: int
    seed: int
    batch: int


def completions(
    run: str | Path,
    prompts: Sequence[str],
    *,
    samples: int = 1,
    seed: int = 0,
    strength: float | None = None,
    particles: int | None = None,
    beams: int | None = None,
    max_new_tokens: int | None = None,
) -> Sequence[Completion | Particle]:
    """Continues prompts as the run's own generate stage does, by the settings of its [decode].

    Args:
      run: its folder; stage train is done.
      prompts: texts.
      samples: of each; with beams, how many of the best.
      seed: in [0, 2^32).
      strength: of the control; None: the run's.
      particles: that each text is chosen from, see `sample_by_particles`; 0: none; None: the run's.
      beams: of a beam search in the place of samples, see `beam_search`, with the run's oracle at
        the end unless target.moments change what it means; None: no search.
      max_new_tokens: None: the run's, or what the longest prompt leaves of the context.

    Raises:
      InputError: as for `load_run`, `generate` and, with decode.guarantee, `guarantee`; for
        particles under settings of the run that they do not read; for both particles and beams, and
        more samples than beams.
    """
    _check_numbers(samples, seed, max_new_tokens)
    if beams is not None:
        beams = _require_beams(beams, samples, particles)
    ready = _ready(run, prompts, strength, max_new_tokens, particles)
    config, oracle = ready.context.config, ready.context.oracle_calls
    if beams is not None:
        judged = None if config.target.moments else oracle
        return beam_search(
            ready.model,
            ready.prompts,
            oracle=judged,
            beams=beams,
            hypotheses=samples,
            max_new_tokens=ready.max_new_tokens,
            batch=config.decode.batch,
        )
    how = ready.sampling(samples, seed)
    if config.decode.particles:
        count = config.decode.particles
        return sample_by_particles(ready.model, ready.prompts, oracle, particles=count, **how)
    return generate(ready.model, ready.prompts, **how, **ready.method)


def stream_completions(
    run: str | Path,
    prompts: Sequence[str],
    *,
    samples: int = 1,
    seed: int = 0,
    strength: float | None = None,
    particles: int | None = None,
    max_new_tokens: int | None = None,
) -> Iterator[Piece]:
    """The texts of `completions` piece by piece, while they are drawn.

    Raises:
      InputError: as for `completions`, and for particles, of the run or given.
    """
    _check_numbers(samples, seed, max_new_tokens)
    ready = _ready(run, prompts, strength, max_new_tokens, particles)
    if ready.context.config.decode.particles:
        raise InputError(
            "a text is chosen among particles when all of them are there: set particles to 0, or "
            "leave out stream"
        )
    how = ready.sampling(samples, seed)
    return generate(ready.model, ready.prompts, **how, **ready.method, stream=True)


def _check_numbers(samples: int, seed: int, max_new_tokens: int | None) -> None:
    """Checks what decoding would refuse, before the run is read."""
    require_integer("samples", samples, *POSITIVE)
    require_seed(seed)
    if max_new_tokens is not None:
        require_integer("max_new_tokens", max_new_tokens, *POSITIVE)


class _Ready(NamedTuple):
    """What continues the prompts."""

    context: Context
    model: Controlled | Composed
    prompts: PromptSet
    max_new_tokens: int | None

    def sampling(self, samples: int, seed: int) -> _Sampling:
        return _Sampling(
            max_new_tokens=self.max_new_tokens,
            samples=samples,
            seed=seed,
            batch=self.context.config.decode.batch,
        )

    @property
    def method(self) -> dict[str, Any]:
        decode = self.context.config.decode
        return {name: getattr(decode, name) for name in ("temperature", "top_k", "top_p")}


def _ready(
    run: str | Path,
    prompts: Sequence[str],
    strength: float | None,
    max_new_tokens: int | None,
    particles: int | None = None,
) -> _Ready:
    config = run_config(run)
    if particles is not None:
        config = with_decoding(config, [f"decode.particles={particles}"])
    decode, tilt = config.decode, Tilt.of(config.decode)
    if strength is not None:
        tilt = replace(tilt, strength=strength)
    controlled = load_run(run)  # only now: what is wrong with the settings is said at once
    tilted = replace(controlled, tilt=tilt)
    given, context = PromptSet(prompts), Context.of(config, Path(run))
    if not decode.guarantee:
        return _Ready(context, tilted, given, max_new_tokens)
    if max_new_tokens is None:
        max_new_tokens = decode.max_new_tokens
    sure, given = guaranteed(context, controlled.base, given, max_new_tokens)
    return _Ready(context, compose(tilted, sure), given, max_new_tokens)


def _in_order(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces of one text after the other: those of a text wait until all before it are whole,
    and the first comes as it is drawn.
    """
    waiting: dict[int, list[Piece]] = {}
    current = 0
    for piece in pieces:
        waiting.setdefault(piece.index, []).append(piece)
        while own := waiting.pop(current, None):
            yield from own
            current += own[-1].last


def as_streamed_text(pieces: Iterable[Piece]) -> Iterator[str]:
    """What `as_text` makes of whole texts, in parts to print one after the other."""
    prompt, begun = None, False
    for piece in _in_order(pieces):
        if not begun:
            yield f"{piece.prompt}\n  " if piece.prompt != prompt else "  "
        yield piece.text + "\n" * piece.last
        prompt, begun = piece.prompt, not piece.last


def _require_beams(beams: int, samples: int, particles: int | None) -> int:
    count = require_integer("beams", beams, *POSITIVE)
    if particles:
        raise InputError(f"beams = {count} and particles = {particles}: ask for one of them")
    if samples > count:
        raise InputError(f"samples = {samples} of {count} beams: ask for no more than beams")
    return count


def as_text(made: Iterable[Completion | Particle]) -> str:
    """Each prompt once, and its continuations below it, indented."""
    lines, before = [], None
    for one in made:
        if one.prompt != before:
            lines.append(one.prompt)
        lines.append(f"  {one.text}")
        before = one.prompt
    return "\n".join(lines)


def as_json(made: Iterable[Completion | Particle]) -> str:
    """A line of JSON each: prompt, text, log-probabilities of the whole text under q and the base
    (nats; log_prob of particles as in generate/control.jsonl), tokens, and whether it ended by
    itself.
    """
    return "\n".join(
        json.dumps(
            {
                "prompt": one.prompt,
                "text": one.text,
                "log_prob": round(float(one.log_prob), 4),
                "log_prob_base": round(float(one.log_probs_base.sum()), 4),
                "tokens": len(one.tokens),
                "finished": one.finished,
            }
        )
        for one in made
    )

"""Continues prompts with the model of a finished run, as often as wanted."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from dinado_jax.data.prompts import PromptSet
from dinado_jax.generation import Completion, generate
from dinado_jax.language_model import Composed, Controlled, compose
from dinado_jax.smc import Particle, sample_by_particles
from dinado_jax.stages.artifacts import guaranteed
from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import load_run, run_config
from dinado_jax.stages.settings import with_decoding


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
    max_new_tokens: int | None = None,
) -> Sequence[Completion | Particle]:
    """Continues prompts as the run's own generate stage does, by the settings of its [decode].

    Args:
      run: its folder; stage train is done.
      prompts: texts.
      samples: of each.
      seed: in [0, 2^32).
      strength: of the control; None: the run's.
      particles: that each text is chosen from, see `sample_by_particles`; 0: none; None: the run's.
      max_new_tokens: None: the run's, or what the longest prompt leaves of the context.

    Raises:
      InputError: as for `load_run`, `generate` and, with decode.guarantee, `guarantee`; for
        particles under settings of the run that they do not read.
    """
    config, controlled = run_config(run), load_run(run)
    if particles is not None:
        config = with_decoding(config, [f"decode.particles={particles}"])
    decode = config.decode
    tilted = controlled.tilted(
        strength=decode.strength if strength is None else strength,
        target_rate=decode.target_rate,
        reject=decode.reject,
    )
    model: Controlled | Composed = tilted
    given, context = PromptSet(prompts), Context.of(config, Path(run))
    if decode.guarantee:
        if max_new_tokens is None:
            max_new_tokens = decode.max_new_tokens
        sure, given = guaranteed(context, controlled.base, given, max_new_tokens)
        model = compose(tilted, sure)
    how = _Sampling(max_new_tokens=max_new_tokens, samples=samples, seed=seed, batch=decode.batch)
    if decode.particles:
        oracle, count = context.oracle_calls, decode.particles
        return sample_by_particles(model, given, oracle, particles=count, **how)
    method = {name: getattr(decode, name) for name in ("temperature", "top_k", "top_p")}
    return generate(model, given, **how, **method)


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

"""Bounds of the base's success rate R0 from both sides, and so of what the target is away from it.

From below by particles: their estimates of R0 have no bias, and the mean of their logarithm is at
most log R0. From above by particles around a text that is drawn from the target itself, one of the
base's own that the oracle accepts: there the mean is at least log R0 (decoding/particles.py). With
U and L the two means and y a text that is chosen among the particles, of distribution q,

    KL(q* || p) = E_{q*}[log C] - log R0    lies between    E_{q*}[log C] - U and - L
    KL(q || q*) + KL(q* || q)               is at most      U - L

(the data-processing inequality, as for `decoding.particles.choose`, in both directions).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dinado_jax.data.prompts import PromptSet
from dinado_jax.generation import generate, names_of
from dinado_jax.oracles.callables import named_oracle
from dinado_jax.oracles.judge import Oracle, judge, require_labels
from dinado_jax.search.particles import Drawing, GuidedModel, draw_particles, require_particles
from dinado_jax.utils import arguments

_BATCH = 64  # rows drawn at once


@dataclasses.dataclass(frozen=True, repr=False)
class RateBounds:
    """Of P prompts, float64 [P] nats each; errors are standard errors over sets of particles, nan
    for a single one.
    """

    prompts: list[str]
    lower: np.ndarray  # of log R0; -inf if the particles of some set have all failed
    lower_error: np.ndarray
    upper: np.ndarray  # of log R0; nan where the oracle has accepted no text of the base
    upper_error: np.ndarray
    log_label: np.ndarray  # the mean of log C under q*; nan likewise
    acceptance: np.ndarray  # the share of the base's texts that the oracle has accepted, no nats

    @property
    def kl_of_target(self) -> tuple[np.ndarray, np.ndarray]:
        """What KL(q* || p) lies between, in the mean over what was drawn."""
        return self.log_label - self.upper, self.log_label - self.lower

    @property
    def distance(self) -> np.ndarray:
        """What KL(q || q*) + KL(q* || q) is at most, q the particles' own distribution."""
        return self.upper - self.lower

    def __repr__(self) -> str:
        known = np.isfinite(self.upper)
        between = "no upper bound"
        if known.any():
            upper = self.upper[known].mean()
            between = f"at most {upper:.2f} on the {known.sum()} that succeed"
        return (
            f"RateBounds({len(self.prompts)} prompts; log R0 at least {self.lower.mean():.2f}, "
            f"{between})"
        )


def rate_bounds(
    model: GuidedModel,
    prompts: Sequence[str] | PromptSet,
    oracle: str | Callable[..., Any],
    *,
    particles: int = 16,
    samples: int = 8,
    tries: int = 64,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> RateBounds:
    """Bounds log R0 of each prompt, R0 the base's success rate, from both sides.

    Args:
      model: a base under guides, which the particles follow: the better, the closer the bounds.
      prompts: as for `generate`.
      oracle: as for `evaluate`; a text on which it fails has label 0.
      particles: N, 2 or more.
      samples: sets of particles of each prompt, of each of both kinds; of the kind around accepted
        texts no more than there are such texts.
      tries: texts of the base for each prompt, each of which is accepted with probability C.
      max_new_tokens: as for `generate`.
      seed: in [0, 2^32).

    Raises:
      InputError: as for `sample_by_particles`.
    """
    count = require_particles(model, particles)
    samples = arguments.require_integer("samples", samples, *arguments.POSITIVE)
    tries = arguments.require_integer("tries", tries, *arguments.POSITIVE)
    key = jax.random.key(arguments.require_seed(seed))
    given = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    asked = arguments.require_texts("prompt", given.texts)
    given = dataclasses.replace(given, texts=asked, names=given.names or names_of(asked))
    judged, P = named_oracle(oracle, asked).function, len(asked)

    base = generate(
        model.base, given, samples=tries, seed=seed, max_new_tokens=max_new_tokens, batch=_BATCH
    )
    label = _labels(judged, [one.prompt for one in base], [one.text for one in base])
    # What is accepted with probability C is a sample of q*.
    accepted = (np.random.default_rng(seed).random(len(label)) < label).reshape(P, tries)
    owner, place = np.nonzero(accepted & (np.cumsum(accepted, 1) <= samples))
    exact = owner * tries + place

    sets, how = given.repeated(samples), Drawing(count, max_new_tokens, key, _BATCH)
    free = _log_rates(model, sets, judged, how)
    around = np.zeros(0)
    if len(exact):
        how = how._replace(key=jax.random.fold_in(key, 1))
        kept = [base[i].tokens.tolist() for i in exact]
        around = _log_rates(model, given.select(owner), judged, how, kept)
    log_label = np.log(label[exact])
    return RateBounds(
        asked,
        *_by_prompt(np.arange(P).repeat(samples), free, P),
        *_by_prompt(owner, around, P),
        _by_prompt(owner, log_label, P)[0],
        accepted.mean(1),
    )


def _labels(oracle: Oracle, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """float64 [N], 0 where the oracle fails."""
    result = judge(oracle, prompts, texts)
    require_labels(oracle, result)
    return np.where(result.failed, 0.0, np.float64(result.labels))


def _log_rates(
    model: GuidedModel,
    sets: PromptSet,
    oracle: Oracle,
    how: Drawing,
    retained: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """log((1 / N) sum_n w_n C(y_n)) of each set of particles: float64 [sets] nats."""
    texts, found = draw_particles(model.for_particles(), sets, how, retained)
    label = _labels(oracle, sets.repeated(how.particles).texts, texts)
    with np.errstate(divide="ignore"):
        total = (np.float64(found.log_weight) + np.log(label)).reshape(-1, how.particles)
    return np.logaddexp.reduce(total, axis=1) - np.log(how.particles)


def _by_prompt(owner: np.ndarray, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard errors of the values of each prompt: [prompts] each, nan without any."""
    mean, error = np.full(count, np.nan), np.full(count, np.nan)
    for prompt in np.unique(owner):
        own = values[owner == prompt]
        spread = own.std(ddof=1) if len(own) > 1 and np.isfinite(own).all() else np.nan
        mean[prompt], error[prompt] = own.mean(), spread / np.sqrt(len(own))
    return mean, error

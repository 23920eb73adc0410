"""Quasi-rejection sampling (arXiv 2112.05702): texts of a model, accepted so as to follow p C.

A text y of the model's q is accepted with probability min(1, w / b), w = p(y) C(y) / q(y). What is
accepted has the density

    min(p(y) C(y), b q(y)) / (b A),    A the acceptance rate,

which is q* once b is above every w, and nearer to it the larger b is, at the price of A. It is the
last resort where particles still miss what q hardly ever draws: b says how much is cut.

P prompts, T texts of each.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dinado_jax.data.prompts import PromptSet
from dinado_jax.generation import Completion, Decodable, generate
from dinado_jax.oracles.callables import named_oracle
from dinado_jax.oracles.judge import judge, require_labels
from dinado_jax.utils import arguments

_BATCH = 64  # rows drawn at once


@dataclasses.dataclass(frozen=True, repr=False)
class Accepted:
    """Texts that were accepted, and by what; arrays are float64 [P], by all texts of each prompt.

    They are estimates: b is chosen by the same texts that are accepted.
    """

    texts: list[Completion]  # with labels, prompt by prompt; `log_probs` are the model's own
    acceptance: np.ndarray  # A
    kept: np.ndarray  # the share of the mean of w that is not above b: 1 once q* is reached
    kl_to_base: np.ndarray  # nats, of what is accepted; nan where no text has C > 0

    def __repr__(self) -> str:
        return (
            f"Accepted({len(self.texts)} texts; acceptance {self.acceptance.mean():.2%}, "
            f"{self.kept.mean():.1%} of p C kept, KL {self.kl_to_base.mean():.2f} nats)"
        )


def sample_by_rejection(
    model: Decodable,
    prompts: Sequence[str] | PromptSet,
    oracle: str | Callable[..., Any],
    *,
    samples: int = 1,
    tries: int = 64,
    excess: float = 4.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> Accepted:
    """Draws texts of a model and accepts those that make samples of p C.

    Args:
      model: a base, or a base under guides that leaves no text with p C > 0 out.
      prompts: as for `generate`.
      oracle: as for `evaluate`; a text on which it fails is not accepted.
      samples: accepted texts to return of each prompt; fewer where fewer are accepted.
      tries: T.
      excess: b over the mean of w of each prompt, an estimate of R0; 1 or more. No text is accepted
        more often than once in `excess` in the mean, and q* needs the largest w over that mean.
      max_new_tokens: as for `generate`.
      seed: in [0, 2^32).

    Raises:
      InputError: as for `generate` and `evaluate`.
    """
    samples = arguments.require_integer("samples", samples, *arguments.POSITIVE)
    tries = arguments.require_integer("tries", tries, *arguments.POSITIVE)
    excess = arguments.require_number("excess", excess, "1 or more", lambda x: x >= 1)
    asked = prompts.texts if isinstance(prompts, PromptSet) else prompts
    judged = named_oracle(oracle, arguments.require_texts("prompt", asked)).function
    made = generate(
        model, prompts, samples=tries, seed=seed, max_new_tokens=max_new_tokens, batch=_BATCH
    )
    result = judge(judged, [one.prompt for one in made], [one.text for one in made])
    require_labels(judged, result)
    label = np.where(result.failed, 0.0, np.float64(result.labels)).reshape(-1, tries)
    log_base, log_q = (
        np.array(nats).reshape(-1, tries)
        for nats in zip(*((one.log_probs_base.sum(), one.log_prob) for one in made))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.exp(np.float64(log_base) - log_q) * label
        bound = excess * weight.mean(1, keepdims=True)
        chance = np.where(weight > 0, np.minimum(weight / bound, 1), 0.0)
        acceptance = chance.mean(1)
        # log of the density of what is accepted, over p
        log_ratio = np.log(chance) + log_q - log_base - np.log(acceptance)[:, None]
        cost = np.where(chance > 0, chance * log_ratio, 0.0).mean(1) / acceptance
    accepted = np.random.default_rng(seed).random(chance.shape) < chance
    first = np.flatnonzero(accepted & (np.cumsum(accepted, 1) <= samples))
    return Accepted(
        [dataclasses.replace(made[i], label=float(label.flat[i])) for i in first.tolist()],
        acceptance,
        excess * acceptance,
        cost,
    )

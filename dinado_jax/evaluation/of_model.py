"""The figures of a model in one call: sampled, judged and compared with its base."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from dinado_jax.data.prompts import PromptSet
from dinado_jax.evaluation.aggregate import aggregate, floors
from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.summary import BaseFigures, ControlFigures, Floors
from dinado_jax.generation import Completion, Decodable, generate
from dinado_jax.oracles.callables import named_oracle
from dinado_jax.oracles.judge import Oracle, judge, require_labels
from dinado_jax.search.particles import GuidedModel, Particle, sample_by_particles
from dinado_jax.utils.arguments import require_texts


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """How often a model succeeds and how far it is from its base; errors are standard errors over
    prompts, nan for a single one.
    """

    samples: int  # of the model that were judged
    success_rate: float
    success_rate_error: float
    base_success_rate: float
    base_success_rate_error: float
    kl_to_base: float  # nats per sequence
    kl_to_base_error: float
    kl_floor: float  # the least KL of any model with its success rate, nats per sequence
    efficiency: float  # kl_floor / kl_to_base

    def __repr__(self) -> str:
        return (
            f"Evaluation(success {self.success_rate:.1%} +- {self.success_rate_error:.1%}, base "
            f"{self.base_success_rate:.1%} +- {self.base_success_rate_error:.1%}; KL "
            f"{self.kl_to_base:.2f} +- {self.kl_to_base_error:.2f} nats, at least "
            f"{self.kl_floor:.2f}: efficiency {self.efficiency:.2f})"
        )

    @classmethod
    def of(cls, base: BaseFigures, control: ControlFigures, least: Floors) -> "Evaluation":
        """The part of a run's figures that these are."""
        return cls(
            samples=control.samples,
            success_rate=control.success_rate,
            success_rate_error=control.success_rate_error,
            base_success_rate=base.success_rate,
            base_success_rate_error=base.success_rate_error,
            kl_to_base=control.kl_to_base,
            kl_to_base_error=control.kl_to_base_error,
            kl_floor=least.kl_floor,
            efficiency=least.efficiency,
        )

    def as_dict(self) -> dict[str, float | None]:
        """Returns the figures by their names; None for what is not a finite number."""
        values = dataclasses.asdict(self)
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


def evaluate(
    model: Decodable,
    prompts: Sequence[str] | PromptSet,
    oracle: str | Callable[..., Any],
    *,
    samples: int = 4,
    particles: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Samples a model and its base on prompts, lets an oracle judge the texts, and compares them.

    The figures are those of a run's summary.json. Give prompts that the model was not trained on.

    Args:
      model: a controlled one, or a base, whose KL is 0.
      prompts: as for `generate`.
      oracle: as for `fit`: a function, one of `dinado_jax.constraints`, or a name. Samples on which
        it raises are left out.
      samples: of each prompt, of the model and of the base.
      particles: of each sample of the model, see `sample_by_particles`; the KL is then an upper
        bound. 0: plain samples.
      seed: in [0, 2^32).

    Raises:
      InputError: as for `generate`, and for what is no oracle or fails on every sample.
    """
    given = prompts.texts if isinstance(prompts, PromptSet) else prompts
    named = named_oracle(oracle, require_texts("prompt", given))
    of_base = list(_judged(model.base, prompts, named.function, samples, seed))
    if particles:
        chosen = sample_by_particles(
            cast(GuidedModel, model),
            prompts,
            oracle,
            particles=particles,
            samples=samples,
            seed=seed,
        )
        of_model = [sample_of(i // samples, one, one.label) for i, one in enumerate(chosen)]
    else:
        of_model = list(_judged(model, prompts, named.function, samples, seed))
    base, control = aggregate(of_base, of_model, (), (), seed)
    return Evaluation.of(base, control, floors(of_base, of_model, control))


def _judged(
    model: Decodable,
    prompts: Sequence[str] | PromptSet,
    oracle: Oracle,
    samples: int,
    seed: int,
) -> Iterator[Sample]:
    """Yields the samples of a model on which the oracle does not fail."""
    made = generate(model, prompts, samples=samples, seed=seed)
    result = judge(oracle, [one.prompt for one in made], [one.text for one in made])
    require_labels(oracle, result)
    for number, (one, label, failed) in enumerate(zip(made, result.labels, result.failed)):
        if not failed:
            yield sample_of(number // samples, one, float(label))


def sample_of(prompt_id: int, one: Completion | Particle, label: float) -> Sample:
    """A judged text in the form of a run's files; no V of its prompt is known."""
    return Sample(
        prompt_id=prompt_id,
        prompt=one.prompt,
        text=one.text,
        label=label,
        log_prob=one.log_prob,
        log_prob_base=float(one.log_probs_base.sum()),
        tokens=len(one.tokens),
        finished=one.finished,
        value=math.nan,
    )

"""The control after each round of training, as points of success and KL."""

import dataclasses
import math

from dinado_jax.evaluation.stage_figures import RoundFigures
from dinado_jax.evaluation.summary import Summary


@dataclasses.dataclass(frozen=True)
class Point:
    """A model after some rounds of training."""

    rounds: int
    success: float
    kl: float  # nats per sequence
    floor: float  # nats per sequence; nan if unknown
    effective_successes: float = math.nan  # of all rollouts so far, those of this model included
    success_error: float = math.nan  # standard errors; nan for training prompts
    kl_error: float = math.nan

    @property
    def efficiency(self) -> float:
        """See `metrics.efficiency`."""
        return self.floor / self.kl if self.kl > 0 else math.nan


def of_rounds(summary: Summary) -> list[Point]:
    """Returns what each round began with: the base, then the control after 1, 2, .. rounds, on
    training prompts.
    """
    return [_begun(number, each) for number, each in enumerate(summary.stages.train.rounds)]


def finished(summary: Summary) -> Point:
    """Returns the finished control, on held-out prompts; without success where rounds have mean
    labels of target.moments, which samples do not have.
    """
    control = summary.control
    return Point(
        rounds=len(summary.stages.train.rounds),
        success=math.nan if summary.moments else control.success_rate,
        kl=control.kl_to_base,
        floor=summary.floors.kl_floor,
        success_error=control.success_rate_error,
        kl_error=control.kl_to_base_error,
    )


def _begun(number: int, figures: RoundFigures) -> Point:
    return Point(
        rounds=number,
        success=figures.newest_success_rate,
        kl=figures.newest_kl,
        floor=figures.newest_efficiency * figures.newest_kl,
        effective_successes=figures.effective_successes,
    )

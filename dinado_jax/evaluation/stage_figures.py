"""The figures that stages report: printed, stored in done.json and collected in summary.json."""

import dataclasses
import itertools
import math
from typing import Any

from dinado_jax.evaluation.records import read_record


@dataclasses.dataclass(frozen=True)
class SftFigures:
    """Figures of stage sft."""

    parameters: int
    base: str  # fingerprint of the resulting base
    pretrain_rows: int | None = None  # None: no step of pretraining
    sft_rows: int | None = None  # None: no step on the task
    dropout_rates: dict | None = None  # by site; None: no dropout


@dataclasses.dataclass(frozen=True)
class RolloutFigures:
    """Figures of stage rollout, which samples the base on training prompts."""

    samples: int
    successes: int
    success_rate: float
    finished: float  # share that ended with an end of text
    oracle_failures: int  # samples left out
    target: str  # the distribution that the weighted rollouts are samples of
    # Share of row-steps that drew a token of a sample, of the first process; None: all was on disk.
    occupancy: float | None = None
    references: int | None = None  # None: rollout.references=false
    references_success_rate: float | None = None
    label_range: float | None = None  # nats, of e^(lambda . phi); None without target.moments


@dataclasses.dataclass(frozen=True)
class RoundFigures:
    """Figures of a round of training, at its start."""

    oracle_failures: int  # samples of this round that were left out
    rollouts: int  # of all rounds so far
    repeated: float  # share of them that repeat an earlier one
    newest_success_rate: float  # of the rollouts of this round, as all figures newest_*
    newest_kl: float  # nats per sequence, from what they were sampled from to the base
    newest_efficiency: float  # see `metrics.efficiency`; nan in round 0, which samples the base
    newest_finished: float  # share that ended with an end of text
    newest_log_prob_per_token: float  # nats per token, under the base
    effective_successes: float  # effective sample size of the weighted successes
    # Nats per token of the base's own successes, to compare with; None in later rounds, and if
    # there are none.
    log_prob_per_token_of_successes: float | None = None


@dataclasses.dataclass(frozen=True)
class TrainFigures:
    """Figures of stage train."""

    trainable_parameters: int
    rounds: tuple[RoundFigures, ...]
    table_kl: float | None = None  # nats per sequence, of the last table round


@dataclasses.dataclass(frozen=True)
class GenerateFigures:
    """Figures of stage generate."""

    prompts: int
    base_oracle_failures: int  # samples left out
    control_oracle_failures: int
    strength_oracle_failures: int = 0  # at the strengths of evaluate.strengths, together
    strength_samples: int = 0  # that are left at these


@dataclasses.dataclass(frozen=True)
class EvaluateFigures:
    """Figures of stage evaluate; None except on the main process."""

    success_rate: float | None = None  # of the controlled model
    efficiency: float | None = None


Figures = (
    SftFigures | RolloutFigures | TrainFigures | GenerateFigures | EvaluateFigures | RoundFigures
)


@dataclasses.dataclass(frozen=True)
class StageFigures:
    """Figures of all stages before evaluate."""

    sft: SftFigures
    rollout: RolloutFigures
    train: TrainFigures
    generate: GenerateFigures


def round_line(number: int, figures: RoundFigures) -> str:
    """Formats what the newest rollouts of round `number` say, in one line."""
    parts = [f"success {figures.newest_success_rate:.1%}"]
    if number:
        parts += [f"KL {figures.newest_kl:.2f} nats"]
    if not math.isnan(figures.newest_efficiency):
        parts += [f"efficiency {figures.newest_efficiency:.2f}"]
    parts += [
        f"ended by itself {figures.newest_finished:.1%}",
        f"{figures.newest_log_prob_per_token:.2f} nats per token under the base",
    ]
    if figures.log_prob_per_token_of_successes is not None:
        parts += [f"its successes {figures.log_prob_per_token_of_successes:.2f}"]
    return ", ".join(parts)


def as_dict(figures: Figures) -> dict[str, Any]:
    """Returns figures as a JSON object: rounds as "round_0", ..; None is omitted."""
    tree = {}
    for field in dataclasses.fields(figures):
        value = getattr(figures, field.name)
        if field.name == "rounds":
            tree |= {f"round_{number}": as_dict(each) for number, each in enumerate(value)}
        elif value is not None:
            tree[field.name] = value
    return tree


def from_dict(kind: type[Figures], tree: dict[str, Any], where: str, fix: str) -> Any:
    """The inverse of `as_dict`: figures of that kind.

    Raises:
      InputError: as `read_record`.
    """
    if kind is not TrainFigures:
        return read_record(kind, tree, where, fix)
    names = itertools.takewhile(tree.__contains__, map("round_{}".format, itertools.count()))
    rounds = tuple(read_record(RoundFigures, tree[name], f"{where}, {name}", fix) for name in names)
    return read_record(TrainFigures, tree, where, fix, rounds=rounds)

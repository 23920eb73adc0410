"""Warnings about a finished run: what went badly without being an error, and how to fix it.

Thresholds are generous: a run that is merely not perfect has no warning.
"""

import math
from collections.abc import Iterator, Sequence

from dinado_jax.evaluation.stage_figures import RoundFigures, StageFigures, TrainFigures
from dinado_jax.evaluation.summary import (
    BaseFigures,
    ControlFigures,
    Floors,
    MomentFigures,
)

_EFFICIENCY = 0.5  # minimum of kl_floor_by_prompt / kl_to_base
_SUCCESS = 0.95  # minimum where every text should succeed
_LEAST_KL = 0.1  # nats per sequence: a lower KL is negligible
_ENDED = 0.05  # allowed drop in the share of finished samples, relative to the base
_FLUENCY = 0.2  # nats per token: allowed drop in log-probability relative to the base's successes
_VARIETY = 0.7  # minimum Distinct-2, as a share of that of equally many successes of the base
_SUCCESSES = 30  # of the base: with fewer, its successes are not compared with
FIRST_SUCCESSES = 100  # effective ones: a control is not learned from fewer
_ABOVE_TABLE = 1.2  # allowed KL of a trained control, relative to the table it began with
_CALIBRATION = 0.05  # allowed calibration error of V(prompt)
_FAILURES = 0.01  # allowed share of samples on which the oracle fails
_MOMENT = 0.1  # allowed distance from a wanted mean, as a share of the base's
_CUT = 0.01  # allowed share of samples above the bound of a tilt
_ERROR = 0.25  # allowed relative standard error of the KL


def summary_warnings(
    base: BaseFigures,
    control: ControlFigures,
    floors: Floors,
    stages: StageFigures,
    always: bool,
) -> tuple[str, ...]:
    """Returns one line per problem: what it is, the figures, how to fix it.

    Figures that were not measured are nan, and cause no warning.

    Args:
      base: of its samples.
      control: of its samples.
      floors: of its KL.
      stages: what they did.
      always: whether every text should succeed: not where labels are graded, or a share is wanted.
    """
    return (
        *training_warnings(stages.train),
        *_success_and_cost(base, control, floors, always),
        *_texts(base, control),
        *_calibration(control),
        *_failures(control, stages),
    )


def training_warnings(figures: TrainFigures) -> Iterator[str]:
    """Yields the warnings of the first round and of the last: what a round between lost may be won
    back.
    """
    rounds = list(enumerate(figures.rounds))
    for number, each in rounds[:1] + rounds[1:][-1:]:
        yield from round_warnings(number, each, figures.table_kl)


def round_warnings(number: int, figures: RoundFigures, table_kl: float | None) -> Iterator[str]:
    """Yields what is known to be wrong when a round of training begins.

    Args:
      number: of the round; before the first, 0, nothing is trained.
      figures: of the round.
      table_kl: of the texts of the last table round, nats; None without any.
    """
    if not number and figures.effective_successes < FIRST_SUCCESSES:
        yield (
            f"few successes, about {figures.effective_successes:.0f} in the first "
            f"{figures.rollouts} rollouts: draw more (rollout.prompts, rollout.samples), "
            "train the base on the task (sft.steps), or begin with an easier oracle"
        )
    if number and table_kl is not None and figures.newest_kl > _ABOVE_TABLE * table_kl:
        yield (
            f"training leads away from the base: KL {figures.newest_kl:.1f} nats in round "
            f"{number + 1}, {table_kl:.1f} in the last table round: learn from particles "
            "(train.objective=matching train.particles=16 train.rounds=1), or keep the table "
            "(train.rounds=1 train.steps=1 train.learning_rate=0 train.state_learning_rate=0)"
        )


def moment_warnings(moments: Sequence[MomentFigures], cut: float) -> Iterator[str]:
    """Yields the moments that are not met.

    Args:
      moments: of the target.
      cut: share of the control's samples above the bound of the tilt.
    """
    for moment in moments:
        gap = abs(moment.wanted - moment.base)
        if abs(moment.control - moment.wanted) > _MOMENT * gap + 2 * moment.control_error:
            yield (
                f"the mean of {moment.feature} is {moment.control:.3g} ± "
                f"{moment.control_error:.2g} where {moment.wanted:.4g} is wanted: train longer "
                "(train.steps), or draw more rollouts (rollout.prompts, train.refresh_prompts)"
            )
    if cut > _CUT:
        yield (
            f"{cut:.1%} of the samples have more of what target.moments favour than any rollout of "
            "the base, and count no more than those: draw more with rollout.prompts"
        )


def margin_warnings(label_range: float | None, margin: float) -> Iterator[str]:
    """Yields a warning if the labels of a target are spread beyond `train.margin`.

    Args:
      label_range: nats, of its tilt; None without one.
      margin: nats, of an objective that reads it.
    """
    if label_range is not None and label_range > margin:
        yield (
            f"the labels of target.moments span {label_range:.1f} nats, and those below "
            f"e^-{margin:g} count as failures: set train.margin={math.ceil(label_range) + 1}"
        )


def _success_and_cost(
    base: BaseFigures, control: ControlFigures, floors: Floors, always: bool
) -> Iterator[str]:
    success, before = control.success_rate, base.success_rate
    noise = 2 * math.hypot(base.success_rate_error, control.success_rate_error)
    if before < 1 and success <= before + noise:
        yield (
            f"no gain: success {success:.1%}, the base's is {before:.1%}: train longer "
            "(train.steps, train.rounds), draw more rollouts (rollout.samples), or check the oracle"
        )
    elif always and success + 2 * control.success_rate_error < _SUCCESS:
        yield (
            f"success {success:.1%}, where the optimum has 100%: train longer (train.rounds, "
            "train.steps), draw more rollouts (train.refresh_samples), or choose among particles "
            "(decode.particles=16); of an oracle that errs, no control satisfies more than its "
            "errors allow"
        )
    kl, error, floor = control.kl_to_base, control.kl_to_base_error, floors.kl_floor_by_prompt
    if kl - 2 * error > _LEAST_KL and (kl - 2 * error) * _EFFICIENCY > floor:
        yield (
            f"efficiency {floor / kl:.2f}: {kl:.2f} nats from the base where {floor:.2f} would do "
            "for this success: draw more rollouts per round (train.refresh_samples), lower "
            "train.learning_rate, with one oracle for all prompts try control.kind=soft, "
            "train.objective=prefixes and train.roll_out=0.75, or choose among particles "
            "(decode.particles=16)"
        )
    if error > _ERROR * kl and kl > _LEAST_KL:
        yield (
            f"the KL of {kl:.2f} nats has an error of {error:.2f}: raise evaluate.prompts or "
            "evaluate.samples before trusting it"
        )


def _texts(base: BaseFigures, control: ControlFigures) -> Iterator[str]:
    if control.finished < base.finished - _ENDED:
        yield (
            f"{1 - control.finished:.1%} of samples did not end by themselves, "
            f"{1 - base.finished:.1%} of the base's: read some of them, raise "
            "decode.max_new_tokens, or train fewer steps"
        )
    if base.successes < _SUCCESSES:
        return
    fluency, wanted = control.log_prob_per_token, base.log_prob_per_token_of_successes
    if fluency < wanted - _FLUENCY:
        yield (
            f"text far from the base's own successes: {fluency:.2f} nats per token under the base, "
            f"theirs have {wanted:.2f}: read some samples, lower train.learning_rate, or try "
            "train.objective=matching if it is another"
        )
    variety, theirs = control.distinct_2, base.distinct_2_of_successes
    if variety < _VARIETY * theirs:
        yield (
            f"texts repeat each other: Distinct-2 {variety:.3f}, {theirs:.3f} for as many of the "
            "base's successes: draw more prompts (rollout.prompts), or train fewer steps"
        )


def _calibration(control: ControlFigures) -> Iterator[str]:
    error = control.calibration_error
    if error > _CALIBRATION:
        yield (
            f"V(prompt) is not calibrated: it is off by {error:.2f} on average, beyond chance: do "
            "not rely on it or on decode.target_rate; V is at most min p / q of the first tokens, "
            "except with control.kind=hard: try that, or draw more prompts (rollout.prompts)"
        )


def _failures(control: ControlFigures, stages: StageFigures) -> Iterator[str]:
    generate = stages.generate
    for stage, failures, drawn in (
        ("rollout", stages.rollout.oracle_failures, stages.rollout.samples),
        ("generate", generate.base_oracle_failures, control.samples),
        ("generate", generate.control_oracle_failures, control.samples),
        ("generate", generate.strength_oracle_failures, generate.strength_samples),
    ):
        if failures > _FAILURES * (drawn + failures):
            yield (
                f"the oracle failed on {failures} samples of stage {stage}, which are left "
                "out: make it answer for every text"
            )

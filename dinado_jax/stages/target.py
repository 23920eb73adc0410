"""The tilt of `target.moments`: fitted by the rollout stage, read by those after it."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from dinado_jax.distributed.processes import barrier, is_main
from dinado_jax.evaluation.aggregate import feature_mean
from dinado_jax.evaluation.records import read_record
from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.summary import MomentFigures
from dinado_jax.evaluation.warnings import margin_warnings
from dinado_jax.oracles.judge import Oracle
from dinado_jax.oracles.moments import Tilt, TiltedOracle, feature_values, fit_tilt
from dinado_jax.rollouts.arrays import Rollouts, select
from dinado_jax.rollouts.collect import Collected
from dinado_jax.rollouts.weighting import importance_weights
from dinado_jax.stages.context import Context
from dinado_jax.utils.files import read_sealed, validate, write_sealed
from dinado_jax.utils.progress import print_once, print_progress

_FILE = "moments.json"
_FAILURES_BY_MARGIN = ("regression", "variance", "consistency", "policy_iteration")
_AGAIN = "delete the folders rollout, train, generate and evaluate, if any, and run again"


def target_oracle(context: Context) -> Oracle:
    """Returns the oracle of the target: C, tilted if the run has moments and the fit is done."""
    oracle = context.oracle_calls
    if not context.features:
        return oracle
    return TiltedOracle(oracle, _functions(context), load_tilt(context))


def load_tilt(context: Context) -> Tilt:
    """Reads what `fit_target` wrote. InputError if it is missing or damaged."""
    path = context.run.path / "rollout" / _FILE
    tree = read_sealed(path, _AGAIN)
    validate(tree, {"moments": [{"coefficient": float}]}, str(path), _AGAIN)
    coefficients = tuple(moment["coefficient"] for moment in tree["moments"])
    return read_record(Tilt, tree, str(path), _AGAIN, coefficients=coefficients)


def fit_target(context: Context, collected: Collected) -> tuple[Rollouts, Tilt]:
    """Fits the tilt to samples of the base, writes it to the rollout stage's folder, and labels the
    samples by it. Rows on which a feature fails are left out.

    Raises:
      InputError: for means that no tilt has, and features that return no numbers.
    """
    values = feature_values(_functions(context), collected.prompts, collected.texts)
    known = np.isfinite(values).all(axis=1)
    rows, values = select(collected.rollouts, np.flatnonzero(known)), values[known]
    moments, names = context.config.target.moments, [each.name for each in context.features]
    wanted = [moment.mean for moment in moments]
    weight = importance_weights(rows, "importance", 1.0, 0.0).astype(np.float64)
    tilt = fit_tilt(values, weight * rows.label, rows.prompt_id, wanted, names)
    means = np.average(values, axis=0, weights=weight)
    tree = [
        {"feature": name, "wanted": mean, "base": float(base), "coefficient": coefficient}
        for name, mean, base, coefficient in zip(
            names, wanted, means, tilt.coefficients, strict=True
        )
    ]
    for each in tree:
        print_progress(
            "target.moments: mean of {feature} {base:.3g} in the base, {wanted:.4g} wanted, lambda "
            "{coefficient:.3f}".format(**each)
        )
    for line in range_warnings(context, tilt.bound - tilt.smallest):
        print_once(f"warning: {line}")
    if is_main():
        path = context.run.path / "rollout" / _FILE
        write_sealed(path, {"moments": tree, "bound": tilt.bound, "smallest": tilt.smallest})
    barrier("the tilt is written")
    labels = tilt.labels(rows.label, values).astype(np.float32)
    return dataclasses.replace(rows, label=labels), tilt


def range_warnings(context: Context, label_range: float | None) -> Iterator[str]:
    """Yields a warning if the objective takes the smallest labels of the target for failures.

    Args:
      label_range: nats, of the tilt; None without moments.
    """
    train = context.config.train
    if train.objective in _FAILURES_BY_MARGIN:
        yield from margin_warnings(label_range, train.margin)


@dataclasses.dataclass(frozen=True)
class TargetSamples:
    """Samples with the labels of the target, and the means of its features."""

    base: list[Sample]
    control: list[Sample]
    moments: tuple[MomentFigures, ...]
    cut: float  # share of the control's samples above the bound of the tilt


def target_samples(
    context: Context, base: Sequence[Sample], control: Sequence[Sample]
) -> TargetSamples:
    """Computes the features of samples which the oracle has judged."""
    tilt = load_tilt(context)
    values = [
        feature_values(_functions(context), [s.prompt for s in samples], [s.text for s in samples])
        for samples in (base, control)
    ]
    of_base, of_control = values
    moments = tuple(
        MomentFigures(
            moment.feature,
            moment.mean,
            coefficient,
            *feature_mean(base, of_base[:, number]),
            *feature_mean(control, of_control[:, number]),
        )
        for number, (moment, coefficient) in enumerate(
            zip(context.config.target.moments, tilt.coefficients, strict=True)
        )
    )
    cut = float((tilt.log(of_control) > 1e-6).mean())
    return TargetSamples(
        _labelled(base, of_base, tilt), _labelled(control, of_control, tilt), moments, cut
    )


def _labelled(samples: Sequence[Sample], values: np.ndarray, tilt: Tilt) -> list[Sample]:
    """Labels samples by the tilt; those on which a feature failed are left out."""
    labels = tilt.labels(np.array([s.label for s in samples]), values)
    return [
        dataclasses.replace(sample, label=float(label))
        for sample, label in zip(samples, labels, strict=True)
        if np.isfinite(label)
    ]


def _functions(context: Context) -> tuple[Oracle, ...]:
    return tuple(feature.function for feature in context.features)

"""Stage evaluate: what control gained, what it cost, and the least it could have cost."""

import dataclasses
import importlib.metadata
import platform
import time

import jax

from dinado_jax.distributed.processes import is_main
from dinado_jax.evaluation.aggregate import aggregate, floors, kl_of_target, of_strength, of_target
from dinado_jax.evaluation.report.page import write_report
from dinado_jax.evaluation.report.records import Records
from dinado_jax.evaluation.samples import read_samples
from dinado_jax.evaluation.stage_figures import EvaluateFigures, StageFigures
from dinado_jax.evaluation.summary import Device, Summary, write_summary
from dinado_jax.evaluation.token_values import read_token_values
from dinado_jax.evaluation.warnings import moment_warnings, summary_warnings
from dinado_jax.stages.context import Context
from dinado_jax.stages.target import range_warnings, target_samples
from dinado_jax.utils.progress import print_once, read_metrics

_PACKAGES = ("dinado-jax", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def evaluate(context: Context) -> EvaluateFigures:
    """Reads the generate stage's samples; the main process writes summary.json and report.html in
    the run folder.
    """
    began, run = time.monotonic(), context.run
    run.stage_folder("evaluate")
    if not is_main():
        return EvaluateFigures()
    generated = run.path / "generate"
    of_base, of_control = (read_samples(generated / f"{n}.jsonl") for n in ("base", "control"))
    references = [example.references for example in context.held_out]
    metrics, seed = context.reported_metrics, context.config.seed
    base, control = aggregate(of_base, of_control, metrics, references, seed)
    least = floors(of_base, of_control, control)
    curve = {float(path.stem): path for path in (generated / "strengths").glob("*.jsonl")}
    if context.config.decode.particles:
        least = dataclasses.replace(least, kl_of_target=kl_of_target(of_control))
    records = {name: run.record(name) for name in ("sft", "rollout", "train", "generate")}
    stages = StageFigures(**{name: record.figures for name, record in records.items()})
    warnings, moments = (), ()
    if context.features:
        target = target_samples(context, of_base, of_control)
        control, least = of_target(target.base, target.control, control)
        moments = target.moments
        warnings = (
            *moment_warnings(moments, target.cut),
            *range_warnings(context, stages.rollout.label_range),
        )
    always = _always(context, [sample.label for sample in (*of_base, *of_control)])
    warnings += summary_warnings(base, control, least, stages, always)
    for line in warnings:
        print_once(f"warning: {line}")
    seconds = {name: record.seconds for name, record in records.items()}
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    device = jax.devices()[0]
    summary = Summary(
        base=base,
        control=control,
        floors=least,
        seconds=seconds | {"evaluate": round(time.monotonic() - began, 2)},
        stages=stages,
        warnings=warnings,
        config=context.config.as_dict(),
        versions=versions | {"python": platform.python_version()},
        device=Device(device.platform, device.device_kind, jax.device_count()),
        moments=moments,
        strengths=tuple(of_strength(one, read_samples(curve[one])) for one in sorted(curve)),
    )
    write_summary(run.path / "summary.json", summary)
    records = Records(
        summary=summary,
        task_metrics=context.metrics,
        base=of_base,
        control=of_control,
        training=read_metrics(run.path / "train" / "train.jsonl"),
        wanted_in=context.oracle.wanted_in,
        values=read_token_values(generated / "values.jsonl"),
    )
    write_report(run.path / "report.html", records)
    return EvaluateFigures(control.success_rate, least.efficiency)


def _always(context: Context, labels: list[float]) -> bool:
    """Whether every text of the control should succeed, by the settings and the oracle's labels."""
    decode = context.config.decode
    aimed = decode.strength >= 1 and decode.target_rate == 1 and not context.features
    return aimed and set(labels) <= {0.0, 1.0}

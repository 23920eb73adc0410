"""report.html: one page that needs nothing else, made of a run's records by templates."""

from pathlib import Path

from dinado_jax.evaluation.bootstrap import Intervals, intervals
from dinado_jax.evaluation.report import figures
from dinado_jax.evaluation.report.examples import pairs
from dinado_jax.evaluation.report.headline import headline
from dinado_jax.evaluation.report.prompts import by_prompt
from dinado_jax.evaluation.report.records import Records
from dinado_jax.evaluation.report.rendering import render
from dinado_jax.evaluation.report.rounds import finished, of_rounds
from dinado_jax.evaluation.report.rows import rows
from dinado_jax.evaluation.report.settings import settings
from dinado_jax.utils.files import write_text

_WORST = 20  # prompts that are listed
_BYTES = 1_400_000  # of samples: with all else, the page stays below 2 MB


def write_report(path: Path, records: Records) -> None:
    """Writes the report of a run."""
    write_text(path, page(records))


def page(records: Records) -> str:
    """Returns the report of a run as HTML."""
    summary = records.summary
    prompts = by_prompt(records.base, records.control)
    return render(
        "page.html",
        name=summary.config["name"],
        headline=headline(summary),
        warnings=summary.warnings,
        rows=rows(summary, records.task_metrics, _intervals(records)),
        round_figures=figures.of_rounds_of_training(records),
        rounds=of_rounds(summary),
        end=finished(summary),
        step_figures=figures.of_steps(records),
        norm_figures=figures.of_norm(records),
        reliability=figures.reliability(records),
        prompts=prompts[:_WORST],
        prompt_count=len(prompts),
        perfect=sum(row.control == 1 for row in prompts),
        pairs=pairs(records.base, records.control, records.wanted_in, records.values, _BYTES),
        marks=records.wanted_in is not None,
        valued=bool(records.values),
        samples=min(len(records.base), len(records.control)),
        settings=settings(summary),
        seconds=summary.seconds,
        versions=summary.versions,
        device=summary.device,
    )


def _intervals(records: Records) -> Intervals:
    """Of the figures that depend on nothing but the samples."""
    found = intervals(records.base, records.control, records.summary.config["seed"])
    return found if records.judged_by_label else found._replace(floors={})

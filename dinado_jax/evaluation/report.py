"""The report before and after control: plain text for the terminal, HTML for the browser."""

import dataclasses
import html
import math
from collections.abc import Sequence
from pathlib import Path

from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.summary import Summary
from dinado_jax.oracles.judge import is_success
from dinado_jax.tasks.protocol import Metric

_SUCCESS = ("success rate", "success_rate", "{:.1%}")
_ROWS = (
    ("Distinct-2 (equal counts)", "distinct_2", "{:.3f}"),
    ("log-probability under the base (nats)", "log_prob_under_base", "{:.2f}"),
    ("the same per token", "log_prob_per_token", "{:.2f}"),
    ("per token of the base's successes", "log_prob_per_token_of_successes", "{:.2f}"),
    ("length (tokens)", "tokens", "{:.1f}"),
    ("ended by itself", "finished", "{:.1%}"),
    ("KL to the base (nats per sequence)", "kl_to_base", "{:.2f}"),
    ("calibration error of V(prompt)", "calibration_error", "{:.3f}"),
)
_FLOORS = (
    ("no controller can have a lower KL than", "kl_floor"),
    ("efficiency (1 is perfect)", "efficiency"),
    ("the floor, prompts differing (estimate)", "kl_floor_by_prompt"),
    ("efficiency by that floor", "efficiency_by_prompt"),
)


def _table(summary: Summary, task_metrics: Sequence[Metric]) -> list[tuple[str, str, str]]:
    """Returns rows of (label, base, control); a figure that was not measured is blank."""

    def cell(value: float, form: str) -> str:
        return "" if math.isnan(value) else form.format(value)

    sides = [vars(side) | side.metrics for side in (summary.base, summary.control)]
    rows = [_SUCCESS, *((each.label, each.key, each.form) for each in task_metrics), *_ROWS]
    base, control = sides
    table = [
        (label, cell(base.get(key, math.nan), form), cell(control.get(key, math.nan), form))
        for label, key, form in rows
    ]
    floors = dataclasses.asdict(summary.floors)
    table += [(label, "", cell(floors[key], "{:.2f}")) for label, key in _FLOORS]
    table += [
        (
            f"mean of {moment.feature} (wanted: {moment.wanted:.4g})",
            f"{moment.base:.3f} ± {moment.base_error:.3f}",
            f"{moment.control:.3f} ± {moment.control_error:.3f}",
        )
        for moment in summary.moments
    ]
    return [row for row in table if any(row[1:])]


def pairs(
    base: Sequence[Sample], control: Sequence[Sample], count: int
) -> list[tuple[Sample, Sample]]:
    """Returns the first sample of each model for the first `count` prompts that both have."""
    first, second = ({s.prompt_id: s for s in reversed(samples)} for samples in (base, control))
    shared = sorted(first.keys() & second.keys())[:count]
    return [(first[number], second[number]) for number in shared]


def plain(
    summary: Summary,
    task_metrics: Sequence[Metric],
    base: Sequence[Sample],
    control: Sequence[Sample],
) -> str:
    """Formats the report as lines for a terminal."""
    rows = [("", "base", "control"), *_table(summary, task_metrics)]
    names = max(42, *(len(label) for label, _, _ in rows))
    width = max(10, *(2 + len(cell) for _, *cells in rows for cell in cells))
    lines = [f"{label:{names}}{before:>{width}}{after:>{width}}" for label, before, after in rows]
    lines += [f"warning: {line}" for line in summary.warnings]
    for before, after in pairs(base, control, 5):
        lines += ["", before.prompt]
        for name, sample in (("base", before), ("control", after)):
            lines.append(f"  {name:8} {'+' if is_success(sample.label) else '-'} {sample.text}")
    return "\n".join(lines)


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;text-align:left;"
    "border-bottom:1px solid #ddd}td.n{text-align:right}.ok{color:#06703a}.no{color:#a3261b}"
)


def write_report(
    path: Path,
    summary: Summary,
    task_metrics: Sequence[Metric],
    base: Sequence[Sample],
    control: Sequence[Sample],
) -> None:
    """Writes a self-contained page: the table, and samples side by side."""

    def row(cells: Sequence[str], tag: str = "td", numbers: bool = True) -> str:
        marks = [""] + [' class="n"' if numbers else ""] * (len(cells) - 1)
        return "<tr>" + "".join(f"<{tag}{m}>{c}</{tag}>" for m, c in zip(marks, cells)) + "</tr>"

    def marked(sample: Sample) -> str:
        mark = "ok" if is_success(sample.label) else "no"
        return f'<span class="{mark}">{html.escape(sample.text)}</span>'

    table = [row(("", "base", "control"), "th")]
    table += [row([html.escape(cell) for cell in cells]) for cells in _table(summary, task_metrics)]
    samples = [row(("prompt", "base", "control"), "th", False)]
    samples += [
        row((html.escape(before.prompt), marked(before), marked(after)), numbers=False)
        for before, after in pairs(base, control, 20)
    ]
    warnings = [f'<p class="no">{html.escape(line)}</p>' for line in summary.warnings]
    name = html.escape(summary.config["name"])
    seconds = ", ".join(f"{stage} {time:.0f}" for stage, time in summary.seconds.items())
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style><h1>{name}: before and after control</h1>"
        f"<table>{''.join(table)}</table>{''.join(warnings)}<h2>Samples</h2>"
        '<p><span class="ok">satisfies</span> or <span class="no">fails</span> the oracle.</p>'
        f"<table>{''.join(samples)}</table><p>Seconds: {html.escape(seconds)}.</p></html>\n"
    )
    path.write_text(page, encoding="utf-8")

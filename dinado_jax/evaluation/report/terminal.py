"""The report as plain text for the terminal."""

from collections.abc import Sequence

from dinado_jax.evaluation.report.rows import rows
from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.summary import Summary
from dinado_jax.oracles.judge import is_success
from dinado_jax.tasks.protocol import Metric


def _pairs(
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
    figures = [(row.label, row.base, row.control) for row in rows(summary, task_metrics)]
    table = [("", "base", "control"), *figures]
    names = max(42, *(len(label) for label, _, _ in table))
    width = max(10, *(2 + len(cell) for _, *cells in table for cell in cells))
    lines = [f"{label:{names}}{before:>{width}}{after:>{width}}" for label, before, after in table]
    lines += [f"warning: {line}" for line in summary.warnings]
    for before, after in _pairs(base, control, 5):
        lines += ["", before.prompt]
        for name, sample in (("base", before), ("control", after)):
            lines.append(f"  {name:8} {'+' if is_success(sample.label) else '-'} {sample.text}")
    return "\n".join(lines)

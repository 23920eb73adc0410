"""Shared by the keyword tasks: the lexical oracle, keyword coverage, and mining."""

from collections.abc import Sequence

import numpy as np

from dinado_jax.tasks.keyword.lexical import coverage
from dinado_jax.tasks.keyword.mining import mine
from dinado_jax.tasks.protocol import Metric, ReadExamples, Task

_ORACLE = "lexical"


def _mean_coverage(
    prompts: Sequence[str], texts: Sequence[str], references: Sequence[tuple[str, ...]]
) -> float:
    return float(np.mean([coverage(prompt, text) for prompt, text in zip(prompts, texts)]))


# Other oracles do not ask for the keywords of the prompt, so coverage would say nothing about them.
COVERAGE = Metric(
    "coverage",
    "keyword coverage",
    "{:.1%}",
    _mean_coverage,
    meaning="The share of a prompt's keywords that a text has, in any inflection.",
    oracle=_ORACLE,
)


def keyword_task(
    examples: ReadExamples,
    setting: str,
    *,
    source: str = "",
    fault: str = "",
    metrics: tuple[Metric, ...] = (),
) -> Task:
    """Returns a task whose prompts are keywords; other arguments are fields of `Task`.

    Args:
      setting: the one setting of the `task` section that the task reads.
      metrics: in addition to keyword coverage.
    """
    return Task(
        examples=examples,
        oracle=_ORACLE,
        settings_read=frozenset({setting}),
        source=source,
        fault=fault,
        metrics=(COVERAGE, *metrics),
        mine=mine,
    )

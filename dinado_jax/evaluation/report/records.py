"""What a report is made of."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.summary import Summary
from dinado_jax.evaluation.token_values import ValuesOf
from dinado_jax.tasks.protocol import Metric, WantedIn


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a finished run that its report shows."""

    summary: Summary
    task_metrics: Sequence[Metric]
    base: Sequence[Sample]
    control: Sequence[Sample]
    training: Sequence[dict[str, Any]]  # lines of train/train.jsonl; may be empty
    wanted_in: WantedIn | None  # of the oracle; None if it does not say what it wants
    values: ValuesOf  # of the samples that are shown first; may be empty

    @property
    def judged_by_label(self) -> bool:
        """Whether the labels of the samples are what the control was trained for: not those of
        target.moments, which only the summary's figures are about.
        """
        return not self.summary.moments

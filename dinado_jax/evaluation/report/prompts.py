"""Success by prompt, the worst prompts first."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from dinado_jax.evaluation.samples import Sample


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """Figures of the samples of one prompt."""

    prompt: str
    base: float  # success rates
    control: float
    kl: float  # nats per sequence
    value: float  # V(prompt), the base's predicted success rate


def by_prompt(base: Sequence[Sample], control: Sequence[Sample]) -> list[PromptRow]:
    """Returns the prompts of which both have samples, by the control's success rate, then by the
    base's.
    """
    before, after = _grouped(base), _grouped(control)
    found = [
        PromptRow(
            prompt=after[number][0].prompt,
            base=float(np.mean([s.label for s in before[number]])),
            control=float(np.mean([s.label for s in after[number]])),
            kl=float(np.mean([s.log_prob - s.log_prob_base for s in after[number]])),
            value=after[number][0].value,
        )
        for number in sorted(before.keys() & after.keys())
    ]
    return sorted(found, key=lambda row: (row.control, row.base))


def _grouped(samples: Sequence[Sample]) -> dict[int, list[Sample]]:
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.prompt_id].append(sample)
    return dict(groups)

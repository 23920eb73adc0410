"""Metrics of captions as coco-caption computes them, which papers about CommonGen report."""

from collections.abc import Sequence

from dinado_jax.metrics.captions import CIDER_D, COCO_BLEU, ROUGE_L
from dinado_jax.metrics.protocol import TextMetric, items_of
from dinado_jax.tasks.protocol import Metric


def _reported(metric: TextMetric) -> Metric:
    def measure(
        prompts: Sequence[str], texts: Sequence[str], references: Sequence[tuple[str, ...]]
    ) -> float:
        return metric.measure(items_of(prompts, texts, references)).value

    return Metric(metric.name, metric.label, "{:.3f}", measure, needs_references=True)


CAPTIONS = tuple(map(_reported, (COCO_BLEU[3], ROUGE_L, CIDER_D)))

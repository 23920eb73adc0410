"""The metrics of texts by name, and the scores of a system by them."""

import dataclasses
import difflib
import importlib.util
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dinado_jax.errors import InputError, quote
from dinado_jax.evaluation.intervals import (
    Comparison,
    Interval,
    bootstrap_interval_of_sums,
    compare,
)
from dinado_jax.metrics import diversity
from dinado_jax.metrics.captions import CIDER, CIDER_D, COCO_BLEU, ROUGE_L
from dinado_jax.metrics.matched_accuracy import M_ACC
from dinado_jax.metrics.protocol import Item, Measured, TextMetric
from dinado_jax.metrics.translation import chrf, sacrebleu_bleu
from dinado_jax.tasks.keyword.format import concepts_of
from dinado_jax.tasks.keyword.lexical import coverage, lexical, words


def _mean(value: Callable[[str, str], float]) -> Callable[[Sequence[Item]], Measured]:
    """The mean of a value of (prompt, text) over a prompt's texts, and over prompts."""
    return lambda items: Measured.of_means(
        [float(np.mean([value(item.prompt, text) for text in item.texts])) for item in items]
    )


def _distinct(n: int) -> Callable[[Sequence[Item]], Measured]:
    def measure(items: Sequence[Item]) -> Measured:
        split = [[words(text) for text in item.texts] for item in items]
        return Measured(
            diversity.distinct([tokens for own in split for tokens in own], n),
            np.array([diversity.distinct(own, n) for own in split]),
        )

    return measure


def _self_bleu(tokens_of: Callable[[str], Sequence[str]]) -> Callable[[Sequence[Item]], Measured]:
    def measure(items: Sequence[Item]) -> Measured:
        scores = diversity.self_bleu([tokens_of(text) for item in items for text in item.texts])
        ends = np.cumsum([len(item.texts) for item in items])[:-1]
        return Measured(float(scores.mean()), np.array([x.mean() for x in np.split(scores, ends)]))

    return measure


def _characters(text: str) -> str:
    return " ".join(text.split())


_KEYWORDS = {"needs_references": False, "needs_concepts": True}
_FREE = {"needs_references": False}
_ALL = (
    TextMetric("coverage", "keyword coverage", _mean(coverage), **_KEYWORDS),
    TextMetric(
        "success", "all keywords", _mean(lambda prompt, text: lexical([prompt], [text])[0]),
        **_KEYWORDS,
    ),
    *COCO_BLEU,
    ROUGE_L,
    CIDER_D,
    CIDER,
    TextMetric("sacrebleu", "BLEU (sacrebleu)", sacrebleu_bleu),
    TextMetric("chrf", "chrF (sacrebleu)", chrf),
    *M_ACC,
    *(TextMetric(f"distinct_{n}", f"Distinct-{n}", _distinct(n), **_FREE) for n in (1, 2, 3)),
    TextMetric("self_bleu", "Self-BLEU (words)", _self_bleu(words), **_FREE),
    TextMetric(
        "self_bleu_characters", "Self-BLEU (characters)", _self_bleu(_characters), **_FREE
    ),
    TextMetric(
        "repetition_4", "repeated 4-grams",
        _mean(lambda _, text: diversity.repetition(words(text), 4)), **_FREE,
    ),
    TextMetric("length", "length (words)", _mean(lambda _, text: len(words(text))), **_FREE),
)  # fmt: skip
METRICS: dict[str, TextMetric] = {metric.name: metric for metric in _ALL}
_FROM_SACREBLEU = ("sacrebleu", "chrf")
ABSENT = {  # why
    "meteor": "its reference is a Java program, and other implementations give other values",
    "spice": "its reference is a Java program with parsers of its own",
    "perplexity": "it needs a language model that judges: give --model BASE",
}


@dataclasses.dataclass(frozen=True)
class Score:
    """What a metric says of a system, and of how it differs from a baseline."""

    value: float
    interval: Interval | None  # None for a metric that resampling prompts would bias
    signature: str = ""
    baseline: float | None = None
    comparison: Comparison | None = None


def applicable(
    items: Sequence[Item], metrics: Mapping[str, TextMetric] = METRICS
) -> tuple[list[str], dict[str, str]]:
    """The names of the metrics that can be computed, and of the others, those that are not offered
    among them, why not.
    """
    names, others = [], {}
    for name, metric in metrics.items():
        if fault := _fault(metric, items):
            others[name] = fault
        else:
            names.append(name)
    return names, others | {name: why for name, why in ABSENT.items() if name not in metrics}


def check(
    names: Sequence[str], items: Sequence[Item], metrics: Mapping[str, TextMetric] = METRICS
) -> None:
    """Raises InputError for a name that is none, or whose metric cannot be computed."""
    for name in names:
        if name not in metrics and name.lower() in ABSENT:
            raise InputError(f"metric {name} is not offered: {ABSENT[name.lower()]}")
        if name not in metrics:
            near = difflib.get_close_matches(name.lower(), metrics, 1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(metrics)}"
            raise InputError(f"metric {quote(name)}, no such metric: {hint}")
        if fault := _fault(metrics[name], items):
            raise InputError(f"metric {name}, {fault}")


def _fault(metric: TextMetric, items: Sequence[Item]) -> str:
    if metric.needs_phrases and not all(item.phrases for item in items):
        return "no marked phrases: give --formal FILE and --informal FILE"
    if metric.needs_references and not all(item.references for item in items):
        return "no references: give --references FILE"
    if metric.needs_concepts:
        try:
            for item in items:
                concepts_of(item.prompt)
        except InputError:
            return 'no keywords: give prompts such as "dog chase =", or lists of concepts'
    if metric.name in _FROM_SACREBLEU and importlib.util.find_spec("sacrebleu") is None:
        return 'sacrebleu is missing: pip install ".[eval]"'
    return ""


def score(
    names: Sequence[str],
    items: Sequence[Item],
    baseline: Sequence[Item] | None = None,
    seed: int = 0,
    metrics: Mapping[str, TextMetric] = METRICS,
) -> dict[str, Score]:
    """Scores a system by each metric.

    Args:
      names: of metrics that `check` accepts.
      items: of the system, at least one.
      baseline: of another system on the same prompts, in the same order; None for no comparison.
      seed: of the bootstrap and of the test.
      metrics: by their names.
    """
    scores = {}
    for name in names:
        measure = metrics[name].measure
        own, other = measure(items), measure(baseline) if baseline is not None else None
        comparison = None
        if other is not None and own.sums and other.sums:
            comparison = compare(other.sums, own.sums, seed)
        scores[name] = Score(
            own.value,
            bootstrap_interval_of_sums(own.sums, seed) if own.sums else None,
            own.signature,
            other.value if other is not None else None,
            comparison,
        )
    return scores

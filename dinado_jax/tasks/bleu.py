"""BLEU, a metric of tasks with human references."""

from collections.abc import Sequence
from typing import Any, cast

from dinado_jax.errors import InputError
from dinado_jax.tasks.protocol import Metric


def bleu4(hypotheses: Sequence[str], references: Sequence[tuple[str, ...]]) -> float:
    """Computes corpus BLEU-4, lower-cased, with sacrebleu and its standard tokenizer.

    Args:
      hypotheses: N texts.
      references: N groups of one or more references.

    Returns:
      A score in [0, 100].

    Raises:
      InputError: if a hypothesis has no reference, if the two lengths differ or are 0, or if
        sacrebleu is not installed.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise InputError(
            f"{len(hypotheses)} hypotheses and {len(references)} reference sets, BLEU: "
            "give equally many, at least one"
        )
    for i, group in enumerate(references):
        if not group:
            raise InputError(f"hypothesis {i} has no references, BLEU: use a split with references")
    try:
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise InputError('sacrebleu is missing, BLEU: pip install ".[eval]"') from error
    # sacrebleu wants the k-th references of all hypotheses together, None where there is none.
    streams = [
        [group[k] if k < len(group) else None for group in references]
        for k in range(max(map(len, references)))
    ]
    # force: the texts of a task may end in " .", which is no mistake to warn of.
    scored = corpus_bleu(list(hypotheses), cast(Any, streams), lowercase=True, force=True)
    return scored.score


BLEU = Metric(
    key="bleu_4",
    label="BLEU-4",
    form="{:.1f}",
    measure=lambda prompts, texts, references: bleu4(texts, references),
    meaning="How many runs of up to four words a text shares with the references, from 0 to 100.",
    needs_references=True,
    package="sacrebleu",
    extra="eval",
)

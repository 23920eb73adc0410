"""BLEU and chrF of translations, computed by sacrebleu (Post, WMT 2018) with its signatures.

Both in [0, 100], with sacrebleu's defaults: case is kept, BLEU has the tokenizer 13a.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dinado_jax.errors import InputError
from dinado_jax.metrics.protocol import Item, Measured, Sums


def sacrebleu_bleu(items: Sequence[Item]) -> Measured:
    """Corpus BLEU.

    Raises:
      InputError: if sacrebleu is not installed.
    """
    # force: texts may end in " .", which is no mistake to warn of.
    return _measured(_sacrebleu("BLEU").BLEU(force=True), items)


def chrf(items: Sequence[Item]) -> Measured:
    """chrF2 (Popović, WMT 2015): character 1- to 6-grams.

    Raises:
      InputError: if sacrebleu is not installed.
    """
    return _measured(_sacrebleu("chrF").CHRF(), items)


def _sacrebleu(metric: str) -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise InputError(f'sacrebleu is missing, {metric}: pip install ".[eval]"') from error
    return sacrebleu


def _measured(metric: Any, items: Sequence[Item]) -> Measured:
    """The sums of sacrebleu's statistics of texts; they have no public name."""
    pairs = [(text, item.references) for item in items for text in item.texts]
    # sacrebleu wants the k-th references of all texts together, None where there is none.
    streams = [
        [group[k] if k < len(group) else None for _, group in pairs]
        for k in range(max(len(group) for _, group in pairs))
    ]
    statistics = metric._extract_corpus_statistics([text for text, _ in pairs], streams)
    owner = np.repeat(np.arange(len(items)), [len(item.texts) for item in items])
    rows = np.zeros((len(items), len(statistics[0])))
    np.add.at(rows, owner, np.asarray(statistics, np.float64))

    def value(sums: np.ndarray) -> np.ndarray:
        whole = sums.round().astype(int).tolist()
        return np.array([metric._compute_score_from_stats(row).score for row in whole])

    return Measured.of_sums(Sums(rows, value), str(metric.get_signature()))

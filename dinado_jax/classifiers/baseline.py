"""The baseline that a classifier is printed beside: TF-IDF of words and logistic regression."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from dinado_jax.classifiers.labelled import Labelled
from dinado_jax.classifiers.logistic import fit_logistic


def baseline_accuracy(train: Labelled, test: Labelled) -> float:
    """The accuracy on `test` of the baseline that was trained on `train`."""
    return float(np.mean((fit_baseline(train)(test.texts) > 0) == test.labels))


def fit_baseline(train: Labelled, penalty: float = 1.0) -> Callable[[Sequence[str]], np.ndarray]:
    """Trains the baseline, with a penalty of `penalty` |w|^2 / 2 beside the summed loss.

    Returns:
      A function from N texts to the log-odds that each has the label, float64 [N].
    """
    bags = [Counter(_words(text)) for text in train.texts]
    documents = Counter(word for bag in bags for word in bag)
    scale = {word: np.log((1 + len(bags)) / (1 + n)) + 1 for word, n in documents.items()}
    weights, bias = fit_logistic(_features(train.texts, scale), train.labels, penalty)
    return lambda texts: _features(texts, scale) @ weights + bias


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _features(texts: Sequence[str], scale: dict[str, float]) -> Any:
    """The TF-IDF of each text's known words, a sparse matrix of rows of length 1."""
    column = {word: number for number, word in enumerate(scale)}
    values, columns, ends = [], [], [0]
    for text in texts:
        known = Counter(word for word in _words(text) if word in scale)
        row = np.array([count * scale[word] for word, count in known.items()])
        values += (row / np.linalg.norm(row)).tolist() if known else []
        columns += [column[word] for word in known]
        ends.append(len(values))
    return scipy.sparse.csr_array((values, columns, ends), shape=(len(texts), len(scale)))

"""From labelled texts to a calibrated classifier, and its figures on texts it has not seen."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import scipy.special

from dinado_jax.classifiers.bag import fit_bag, forms, held_out_log_odds
from dinado_jax.classifiers.baseline import baseline_accuracy
from dinado_jax.classifiers.calibration import (
    brier_score,
    calibration_error,
    chance_calibration_error,
    fit_temperature,
)
from dinado_jax.classifiers.classifier import Classifier, log_odds_of, to_rows
from dinado_jax.classifiers.labelled import Labelled, Parts, folds
from dinado_jax.classifiers.training import train_head, train_small
from dinado_jax.config.schema import Base
from dinado_jax.data.batching import bucket
from dinado_jax.data.sequences import Sequences
from dinado_jax.models.architectures import load_model, load_params, new_model
from dinado_jax.models.codec import Codec
from dinado_jax.models.hf_folder import locate
from dinado_jax.models.tokenizer import load_codec, train_words

_WIDTH, _LAYERS, _HEADS = 128, 2, 4
_VOCABULARY = 16_384
_LONGEST = 256  # tokens
_FOLDS = 5


class Made(NamedTuple):
    """A classifier and how it does."""

    classifier: Classifier
    figures: dict[str, float | int]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is trained: with neither folder, a small model of whole words."""

    base: str = ""  # a head on the hidden states of this base
    tokenizer: str = ""  # a small model with the tokens of this base, whose guide it can be


def make_classifier(parts: Parts, label: str, kind: Kind, epochs: int, seed: int) -> Made:
    """Trains a classifier, fits its temperature, and measures it.

    Args:
      parts: texts to train on; to choose the epoch and the temperature by; and to measure it on.
      label: of those that have one.
      kind: of classifier.
      epochs: at most.
      seed: of training.

    Raises:
      InputError: for a folder without model or tokenizer.
    """
    reads_prompt = any(prompt for part in parts for prompt in part.prompts)
    if kind.base:
        folder = locate(kind.base)
        model = load_model(folder)
        codec, limit = load_codec(folder, model.vocab_size), min(model.context_length, _LONGEST)
    else:
        codec, limit = _codec(parts.train, kind.tokenizer), _LONGEST
    given = [each.prompts if reads_prompt else None for each in parts]
    context = _context(to_rows(codec, given[0], parts.train.texts, limit), limit)
    train, calibrate, test = (
        to_rows(codec, prompts, part.texts, context) for prompts, part in zip(given, parts)
    )
    if not kind.base:
        size = 1 + max(codec.tokenizer.get_vocab().values())
        shape = Base(
            vocab_size=size, n_positions=context, n_embd=_WIDTH, n_layer=_LAYERS, n_head=_HEADS
        )
        model = new_model(shape)
    rows, labels = (train, calibrate), (parts.train.labels, parts.calibrate.labels)
    form, stop = forms(codec, model.vocab_size), codec.eos_id
    known = held_out_log_odds(train, labels[0], form, stop, folds(parts.train, _FOLDS))
    bags = fit_bag(train, labels[0], form, stop), known
    if kind.base:
        trunk = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), load_params(folder, model))
        params = train_head(model, jax.device_put(trunk), rows, labels, bags, epochs, seed)
    else:
        params = train_small(model, rows, labels, bags, stop, epochs, seed)
    fitted, unseen = (log_odds_of(model, params, each) for each in (calibrate, test))
    temperature = fit_temperature(fitted, parts.calibrate.labels)
    before, after = (scipy.special.expit(unseen / t) for t in (1.0, temperature))
    truth = parts.test.labels
    figures = {
        "train": len(parts.train.texts),
        "calibrate": len(parts.calibrate.texts),
        "test": len(truth),
        "share": float(truth.mean()),
        "accuracy": float(np.mean((after > 0.5) == truth)),
        "baseline_accuracy": baseline_accuracy(parts.train, parts.test),
        "calibration_error_before": calibration_error(before, truth),
        "calibration_error": calibration_error(after, truth),
        "chance_calibration_error": chance_calibration_error(after),
        "brier_score": brier_score(after, truth),
    }
    made = Classifier(model, codec, params, label, reads_prompt, context, temperature)
    return Made(made, figures)


def _codec(train: Labelled, folder: str) -> Codec:
    if not folder:
        return train_words([*train.prompts, *train.texts], _VOCABULARY)
    source = locate(folder)
    return load_codec(source if source.is_dir() else Path(source))


def _context(rows: Sequences, limit: int) -> int:
    """Tokens that are read: as many as 99% of the rows to train on have. Later positions would be
    learned from next to nothing, and every row has the width of the longest.
    """
    return bucket(int(np.quantile(rows.length, 0.99)), limit)

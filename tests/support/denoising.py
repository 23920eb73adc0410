"""Masked language models and pairs small enough for tests."""

import dataclasses
import functools

import jax

from dinado_jax.denoising.data import pair_rows
from dinado_jax.denoising.model import from_masked
from dinado_jax.denoising.pretraining import new_masked
from dinado_jax.denoising.settings import Parts, Sizes
from dinado_jax.denoising.tokens import codec_of
from dinado_jax.tasks.protocol import Example
from support import tiny

PAIRS = {
    "a dog": "ein Hund", "the cat": "die Katze", "a fox": "ein Fuchs", "go": "geh",
    "the dog sees it": "der Hund sieht es", "one two three": "eins zwei drei",
    "a cat and dog": "Katze und Hund", "run to the fox": "lauf zum Fuchs",
}  # fmt: skip
EXAMPLES = [Example(prompt, (text,)) for prompt, text in PAIRS.items()]
TEXTS = [text for pair in PAIRS.items() for text in pair]
SIZES = Sizes(layers=1, width=32, heads=2, positions=16, vocabulary=420)


@functools.cache
def masked(layers=1):
    """A masked language model of random parameters, its biases and LayerNorms too."""
    with jax.ensure_compile_time_eval():
        made = new_masked(TEXTS, dataclasses.replace(SIZES, layers=layers))
        return dataclasses.replace(made, params=tiny.noisy(made.params, 0.1))


@functools.cache
def denoiser(max_length=12):
    """A denoiser and parameters far from those of its masked language model."""
    model, params = from_masked(masked(), Parts(max_length))
    return model, tiny.noisy(params, 0.2, seed=1)


def pairs(denoiser, examples=EXAMPLES):
    """The rows of pairs that fit a denoiser of `masked`."""
    longest = denoiser.max_source_length, denoiser.max_length
    return pair_rows(codec_of(masked()), examples, longest, denoiser.vocabulary.pad_id)

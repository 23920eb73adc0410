"""Texts under the mask satisfy any constraint, at tight numbers of tokens too."""

import numpy as np
import pytest
from support import tiny, tokenizer_folders
from support.folders import refused

import dinado_jax
from dinado_jax.constraints.constraint import AllOf
from dinado_jax.constraints.counting import at_least_words, at_most_words
from dinado_jax.constraints.pattern import pattern
from dinado_jax.constraints.words import any_of_words, contains, in_order, without
from dinado_jax.guarantee import guarantee
from dinado_jax.language_model import Base
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.tasks.keyword.oracle import LEXICAL

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONSTRAINTS = [
    pattern(r"[A-Z][^.!?]*[.!?]"),
    pattern(r"(dog|fan)s?( (dog|fan)s?){2}") & without("fans"),
    without("a", "dog", "t"),
    at_most_words(3),
    at_least_words(6) & at_most_words(7),
    contains("dog", "fan") & at_most_words(3),
    contains("dog", "fan", "the") & without("a", "assistant"),
    in_order("fan", "dog") & pattern(".*!"),
    contains("dog", "run") & pattern(r"[^!?]*[!?]") & without("a"),
    any_of_words("dog", "fan") | pattern("[0-9]{2,3}"),
    ~contains("dog") & ~pattern(r".*[aeiou].*"),
]


@pytest.fixture(scope="module", params=["llama3", "llama2", "gpt2"])
def base(request, tmp_path_factory) -> Base:
    """Random: its texts are noise."""
    folder = tmp_path_factory.mktemp("tokenizer")
    lines = ["the dog runs past a fan, said the assistant", "a dog 's fan won't run"] * 3
    made = {
        "llama3": lambda: tokenizer_folders.llama3(folder, lines=lines, vocab_size=320),
        "llama2": lambda: tokenizer_folders.llama2(folder),
    }
    codec = load_codec(made.get(request.param, lambda: None)())
    vocabulary = len(codec.tokenizer)
    config = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=8, n_layer=1, n_head=2)
    model = GPT2(config).replace(excluded_ids=codec.excluded_ids(vocabulary))
    return Base(model, tiny.noisy(init_params(model, seed=0), 0.3), None, codec)

"""Texts under the mask of a constraint satisfy the lexical oracle, whatever is drawn."""

import pytest
from support import tiny, tokenizer_folders

import dinado_jax
from dinado_jax.language_model import Base
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.tasks.keyword.guarantee import guarantee
from dinado_jax.tasks.keyword.lexical import lexical

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PROMPTS = ["dog =", "run the =", "dog fan assistant =", "the dog ="]
N = 16


def base_of(codec) -> Base:
    """Random and flat: nearly every text is noise."""
    vocabulary = len(codec.tokenizer)
    config = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=8, n_layer=1, n_head=2)
    model = GPT2(config).replace(excluded_ids=codec.excluded_ids(vocabulary))
    params = tiny.noisy(init_params(model, seed=0), 0.3)
    return Base(model, params, None, codec)


@pytest.fixture(scope="module", params=["llama3", "llama2"])
def base(request, tmp_path_factory) -> Base:
    folder = tmp_path_factory.mktemp("tokenizer")
    lines = ["the dog runs past a fan, said the assistant", "a dog 's fan won't run"] * 3
    if request.param == "llama3":
        return base_of(load_codec(tokenizer_folders.llama3(folder, lines=lines, vocab_size=320)))
    return base_of(load_codec(tokenizer_folders.llama2(folder)))


@pytest.fixture(scope="module")
def prompts(base) -> list[str]:
    """Those that fit in N tokens: the second tokenizer spells words letter by letter."""
    return PROMPTS if len(base.codec.stop_ids) > 1 else ["dog =", "run =", "dog run =", "run dog ="]


def test_every_sample_satisfies_the_oracle(base, prompts):
    model, asked = guarantee(base, prompts, N)
    for method in ({}, {"temperature": 5.0}, {"temperature": 0.0}, {"top_k": 3, "top_p": 0.7}):
        made = dinado_jax.generate(model, asked, max_new_tokens=N, samples=16, seed=1, **method)
        assert all(lexical([one.prompt for one in made], [one.text for one in made]))
    free = dinado_jax.generate(base, prompts, max_new_tokens=N, samples=16, seed=1)
    assert not any(lexical([one.prompt for one in free], [one.text for one in free]))


def test_every_beam_satisfies_the_oracle(base, prompts):
    model, asked = guarantee(base, prompts, N)
    for penalty in (0.0, 1.0):
        made = dinado_jax.beam_search(
            model, asked, max_new_tokens=N, beams=4, hypotheses=4, length_penalty=penalty
        )
        assert len(made) == 4 * len(prompts)
        assert all(lexical([one.prompt for one in made], [one.text for one in made]))

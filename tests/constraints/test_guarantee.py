"""Texts under the mask satisfy any constraint, at tight numbers of tokens too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, tokenizer_folders
from support.folders import refused

import dinado_jax
from dinado_jax.automata import product
from dinado_jax.constraints.constraint import AllOf
from dinado_jax.constraints.counting import at_least_words, at_most_words
from dinado_jax.constraints.pattern import pattern
from dinado_jax.constraints.words import any_of_words, contains, in_order, without
from dinado_jax.guarantee import guarantee
from dinado_jax.guides.constraint import Constraint, ConstraintState, tokens_needed
from dinado_jax.language_model import Base
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.tasks.keyword.oracle import LEXICAL

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONSTRAINTS = [
    pattern(r"[A-Z][^.,]*[.,]"),
    pattern(r"(dog|fan)s?( (dog|fan)s?){2}") & without("fans"),
    without("a", "dog", "t"),
    at_most_words(3),
    at_least_words(6) & at_most_words(7),
    contains("dog", "fan") & at_most_words(3),
    contains("dog", "fan", "the") & without("a", "assistant"),
    in_order("fan", "dog") & pattern(".*s"),
    contains("dog", "run") & pattern(r"[^!?s]*n") & without("a"),
    any_of_words("dog", "fan") | pattern("(ab){2,3}"),
    ~contains("dog") & ~pattern(r".*[aeiou].*"),
]


@pytest.fixture(scope="module", params=["llama3", "llama2"])
def base(request, tmp_path_factory) -> Base:
    """Random: its texts are noise."""
    folder = tmp_path_factory.mktemp("tokenizer")
    lines = ["the dog runs past a fan, said the assistant", "a dog 's fan won't run"] * 3
    if request.param == "llama3":
        codec = load_codec(tokenizer_folders.llama3(folder, lines=lines, vocab_size=320))
    else:
        codec = load_codec(tokenizer_folders.llama2(folder))
    vocabulary = len(codec.tokenizer)
    config = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=8, n_layer=1, n_head=2)
    model = GPT2(config).replace(excluded_ids=codec.excluded_ids(vocabulary))
    return Base(model, tiny.noisy(init_params(model, seed=0), 0.3), None, codec)


def broken(prompts, texts) -> list[tuple[str, str]]:
    """The prompts and texts that do not satisfy."""
    labels = ByPrompt()(prompts, texts)
    return [each for each, good in zip(zip(prompts, texts), labels) if not good]


class ByPrompt:
    """A constraint for each prompt, its number among these."""

    def __call__(self, prompts, texts):
        pairs = zip(prompts, texts, strict=True)
        return [CONSTRAINTS[int(prompt)]([""], [text])[0] for prompt, text in pairs]

    def automata(self, prompt):
        return CONSTRAINTS[int(prompt)].automata(prompt)


PROMPTS = [str(i) for i in range(len(CONSTRAINTS))]
N = 40
STEP = jax.jit(Constraint(N).step)


@pytest.fixture(scope="module")
def model(base):
    return guarantee(base, PROMPTS, N, ByPrompt())


def test_every_sample_satisfies_its_constraint(model):
    made = dinado_jax.generate(*model, max_new_tokens=N, samples=16, seed=1)
    assert not broken([one.prompt for one in made], [one.text for one in made])
    assert len({one.text for one in made}) > len(made) / 2


def test_no_number_of_tokens_is_too_tight(base, model):
    """Tokens drawn uniformly of those that the mask allows, with the least that is not refused."""
    arrays, P, S = model[0].params, len(PROMPTS), 16
    states = jnp.zeros((P * S, arrays.table.shape[1]), jnp.int32)
    prompt = jnp.arange(P * S) // S
    least = np.asarray(tokens_needed(arrays, prompt, states[..., None]))[:, 0]
    assert least.max() < 25
    rng, stop = np.random.default_rng(0), base.codec.eos_id
    never = sorted(base.codec.special_ids - {stop})
    for more in (0, 1, 8):
        left = least + more
        tokens, rows = np.full(P * S, stop), [[] for _ in left]  # which changes no state
        state = ConstraintState(prompt, states, jnp.array(left + 1))
        ended = left == 0
        while not ended.all():
            values, state = STEP(arrays, None, None, jnp.array(tokens), state)
            allowed = np.array(values.log_after == 0)
            allowed[:, never] = False
            tokens = (allowed * rng.random(allowed.shape)).argmax(1)
            for row, token in zip(rows, np.where(ended, stop, tokens)):
                row.append(int(token))
            ended |= (tokens == stop) | (np.array([len(row) for row in rows]) >= left)
        texts = base.codec.decode(rows)
        assert not broken([str(each) for each in prompt], texts)


def test_texts_that_satisfy_are_allowed(base, model):
    """To their last token, in as many tokens as they have."""
    arrays, rows = model[0].params, 16 * len(PROMPTS)
    prompt, states = jnp.ones(rows, jnp.int32), jnp.zeros((rows, arrays.table.shape[1]), jnp.int32)
    for text in ("dog dog fan", "dogs fan dog", "dog dogs dogs"):
        (*tokens, stop), *_ = base.codec.targets([text])
        state = ConstraintState(prompt, states, jnp.full(rows, len(tokens) + 1))
        for before, token in zip([stop, *tokens], tokens):
            values, state = STEP(arrays, None, None, jnp.full(rows, before), state)
            assert values.log_after[0, token] == 0, text


# Refusals


@pytest.mark.parametrize("base", ["llama3"], indirect=True)
def test_what_cannot_be_promised_is_refused(base, monkeypatch):
    constraint = pattern("a+b") & contains("dog")
    message = r"prompt 0, 'x': no text of the model's tokens satisfies pattern\('a\+b'\) & contains"
    refused(message, guarantee, base, ["x"], N, constraint)
    spelt = r"cannot spell contains\('\u4e16\u754c'\); leave it out"
    refused(spelt, guarantee, base, ["x"], N, contains("\u4e16\u754c"))
    refused("may need 6 tokens", guarantee, base, ["x"], 5, at_least_words(6) & without("x"))
    monkeypatch.setattr(product, "MOST_STATES", 40)
    many = contains("dog") & at_most_words(2)
    refused("dog.*together they need more than 40 states", guarantee, base, ["x"], N, many)


def test_oracles_that_read_the_prompt_join_constraints():
    short = at_most_words(2)
    both = AllOf(LEXICAL, short)
    texts = ["the dogs", "the dogs run", "a fan"]
    assert both(["dog ="] * 3, texts) == [1.0, 0.0, 0.0]
    assert both.automata("dog fan =") == (*LEXICAL.automata("dog fan ="), *short.automata(""))

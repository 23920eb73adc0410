"""Texts under the mask of a constraint satisfy the lexical oracle, whatever is drawn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from support import tiny, tokenizer_folders
from support.folders import refused

import dinado_jax
from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.tokens import NEVER, Vocabulary, token_automaton
from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.refill import iter_refilled
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.guarantee import guarantee
from dinado_jax.guides.constraint import KEY, Constraint, tokens_needed
from dinado_jax.language_model import Base, Controlled, compose
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.tasks.keyword.automaton import concept_automaton
from dinado_jax.tasks.keyword.lexical import lexical

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PROMPTS = ["dog =", "run the =", "dog fan assistant =", "the dog ="]
N = 16


def base_of(codec) -> Base:
    """Random: its texts are noise."""
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
    """Those that fit in N tokens: the second tokenizer has fewer whole words."""
    return PROMPTS if len(base.codec.stop_ids) > 1 else ["dog =", "run =", "dog run =", "run dog ="]


def satisfied(made) -> list[bool]:
    return lexical([one.prompt for one in made], [one.text for one in made])


@pytest.mark.parametrize("method", [{}, {"temperature": 5.0, "top_k": 3, "top_p": 0.7}])
def test_every_sample_satisfies_the_oracle(base, prompts, method):
    model, asked = guarantee(base, prompts, N)
    made = dinado_jax.generate(model, asked, max_new_tokens=N, samples=16, seed=1, **method)
    assert all(satisfied(made))
    free = dinado_jax.generate(base, prompts, max_new_tokens=N, samples=16, seed=1, **method)
    assert np.mean(satisfied(free)) < 0.1


def test_every_beam_satisfies_the_oracle(base, prompts):
    model, asked = guarantee(base, prompts, N)
    made = dinado_jax.beam_search(model, asked, max_new_tokens=N, beams=4, hypotheses=4)
    assert len(made) == 4 * len(prompts) and all(satisfied(made))


def test_rows_that_are_refilled_and_shared_over_devices(base, prompts):
    """Each sample has its own prompt's states and number of tokens left."""
    model, asked = guarantee(base, prompts, N)
    tokens = TokenizedPrompts(base.codec.prompts(prompts), asked.condition)
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    sampler = Sampler(model.policy, Method(), base.codec.stop_ids, N, 16, mesh)
    for rows, drawn, _ in iter_refilled(sampler, model.variables, tokens, jax.random.key(0), 32):
        texts = base.codec.decode([t[:n] for t, n in zip(drawn.tokens, drawn.length)])
        assert all(lexical([prompts[row // 16] for row in rows], texts))


def test_it_composes_with_another_guide(base):
    """With itself at strength 0, which changes nothing."""
    first, asked = guarantee(base, ["dog ="], N)
    tilted = compose(first.tilted(strength=0.0), first)
    made = dinado_jax.generate(tilted, asked, max_new_tokens=N, samples=8, seed=1)
    alone = dinado_jax.generate(first, asked, max_new_tokens=N, samples=8, seed=1)
    assert [one.text for one in made] == [one.text for one in alone]
    np.testing.assert_allclose(made[0].log_probs, alone[0].log_probs, atol=1e-5)


def test_what_is_allowed_keeps_the_probabilities_of_the_base(base):
    """The first token, whose mask is known: all but those that end the text."""
    model, asked = guarantee(base, ["dog ="], N)
    made = dinado_jax.generate(model, asked, max_new_tokens=N, samples=64, seed=3)
    for one in made:
        assert (one.log_probs >= one.log_probs_base - 1e-5).all()
    stops = base.codec.stop_ids
    logits = base.model.apply({"params": base.params}, np.array(base.codec.prompts(["dog ="])))
    log_p = jax.nn.log_softmax(logits.logits[0, -1])
    rest = np.log1p(-np.exp(np.asarray(log_p)[list(stops)]).sum())
    np.testing.assert_allclose(
        [one.log_probs[0] for one in made],
        [one.log_probs_base[0] - rest for one in made],
        atol=1e-4,
    )


def test_nothing_is_read_back_while_decoding(base, prompts):
    model, asked = guarantee(base, prompts, N)
    given = TokenizedPrompts(base.codec.prompts(prompts), asked.condition)
    batch = given.batch(np.arange(4), 0, 8)
    sampler = Sampler(model.policy, Method(), base.codec.stop_ids, N, 2)
    of = jax.make_jaxpr(lambda *args: sampler(*args))
    program = of(model.variables, batch, np.arange(4, dtype=np.int32), jax.random.key(0))
    assert "callback" not in str(program)


# Bounds

TEXTS = [" a", "b", " b", " ", "c", "", "\ufffd"]


def enumerated(words):
    vocabulary = Vocabulary.of(TEXTS)
    automata = [token_automaton(concept_automaton(word), vocabulary) for word in words]
    return automata, stack([conjunction(automata, [5])])


@pytest.mark.parametrize("words", [["a"], ["b", "a"], ["a", "ab"], ["a", "b", "c"]])
def test_the_number_of_tokens_needed_is_a_promise(words):
    """From every state that tokens lead to, some token needs one fewer; 0 is satisfied."""
    automata, arrays = enumerated(words)
    states, front = {(0,) * len(words)}, [(0,) * len(words)]
    following = {}
    while front:
        at = front.pop()
        following[at] = [
            tuple(int(a.table[s, a.class_of[token]]) for a, s in zip(automata, at))
            for token in range(len(TEXTS))
        ]
        new = set(following[at]) - states
        states |= new
        front += new
    order = sorted(states)
    of_states = jnp.array(order, jnp.int32).T[None]
    needed = np.asarray(tokens_needed(arrays, jnp.zeros(1, jnp.int32), of_states))[0]
    needed = dict(zip(order, needed.tolist()))
    for at in order:
        done = all(a.accepting[s] for a, s in zip(automata, at))
        assert (needed[at] == 0) == done
        assert needed[at] < NEVER
        if not done:
            assert min(needed[each] for each in following[at]) <= needed[at] - 1
    # For one concept it is the least number of all.
    if len(words) == 1:
        assert needed[(0,)] == 1


def test_a_text_ends_within_its_tokens_in_every_case():
    """All rows that the guide allows, one token after another."""
    _, arrays = enumerated(["b", "a"])
    guide, steps = Constraint(4), 3
    start = PromptSet(["?"], condition={KEY: np.zeros(1, np.int32)})
    given = TokenizedPrompts([[0]], start.condition).batch(np.arange(1), 0, 1)
    values, state = guide.prefill(arrays, None, None, given, 1, steps)
    rows, ended = [()], []
    for step in range(steps + 1):
        allowed = np.asarray(values.log_after) == 0
        which, token = np.nonzero(allowed)
        ended += [rows[i] for i, new in zip(which, token) if new == 5]
        rows = [(*rows[i], int(new)) for i, new in zip(which, token) if new != 5]
        if step < steps:
            state = jax.tree.map(lambda x, at=which[token != 5]: x[at], state)
            read = jnp.array([row[-1] for row in rows])
            values, state = jax.jit(guide.step)(arrays, None, None, read, state)
    ended += rows
    texts = ["".join(TEXTS[token] for token in row) for row in ended]
    assert len(set(ended)) == len(ended) > 100
    assert all(lexical(["b a ="] * len(texts), texts))
    # None of two tokens is missing.
    for row in itertools.product(range(5), repeat=2):
        assert lexical(["b a ="], ["".join(TEXTS[token] for token in row)])[0] == (row in ended)


# Refusals


def test_what_cannot_be_promised_is_refused(base):
    message = r"prompt 1, 'dog run =': its constraints may need 3 tokens, and max_new_tokens is 2; "
    refused(message, guarantee, base, ["dog =", "dog run ="], 2)
    guarantee(base, ["dog =", "dog run ="], 3)
    named = PromptSet(["dog run ="], names=["file:3"])
    refused("file:3, 'dog run =': its constraints", guarantee, base, named, 2)
    refused("keyword task|keyword prompt", guarantee, base, ["a dog"], N)


def test_a_word_that_the_tokens_cannot_spell_is_refused(base):
    refused("cannot spell '\u4e16\u754c'", guarantee, base, ["dog \u4e16\u754c ="], N)


def test_conditions_of_other_guides_stay(base):
    given = PromptSet(["dog =", "dog ="], condition={"other": np.arange(2)})
    model, asked = guarantee(base, given, N)
    assert isinstance(model, Controlled) and asked.texts == given.texts
    assert asked.condition["other"].tolist() == [0, 1] and asked.condition[KEY].tolist() == [0, 0]

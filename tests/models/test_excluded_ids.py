"""Ids without text: left out of p and q, of draws, beams, scores and gradients alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, world

from dinado_jax.config import schema
from dinado_jax.controls.make import make_control
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.data.sequences import Sequences, sequences
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError
from dinado_jax.language_model import (
    Base,
    Controlled,
    save_base,
)
from dinado_jax.loading import load
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.gpt2_checkpoint import to_config
from dinado_jax.models.hf_folder import read_config
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import train_codec
from dinado_jax.ops.vocab import direction_scalars, token_log_probs

pytestmark = pytest.mark.usefixtures("compiled_quickly")

EXCLUDED = ((2, 4), (6, 7))
OUTSIDE, INSIDE = [2, 3, 6], [0, 1, 4, 5]
MODEL = world.MODEL.replace(vocab_size=7, excluded_ids=EXCLUDED)
KINDS = ["base", "merge", "nado", "soft-small", "projected-merge", "clamped-nado"]


@functools.cache
def base() -> Base:
    """Every logit of an id with text is about -40, and that of one without is 0."""
    params = tiny.noisy(init_params(MODEL, seed=0), 0.1)
    params["ln_f"]["bias"] = jnp.zeros_like(params["ln_f"]["bias"]).at[0].set(8.0)
    table = params["wte"]["embedding"]
    table = table.at[:, 0].set(-5.0 + 0.1 * table[:, 0])
    params["wte"]["embedding"] = table.at[jnp.array(OUTSIDE)].set(0.0)
    return Base(MODEL, params, None)


def model(kind: str, fresh: bool = False, **tilt):
    if kind == "base":
        return base()
    settings = schema.Control(layers=1, **world.KINDS[kind])
    control = make_control(schema.Config(control=settings, delta=tiny.EVERYTHING), MODEL)
    params = control.init(jax.random.key(1), base().params, 0.3)
    params = params if fresh else tiny.noisy(params, 0.1)
    made = Controlled(base(), control, params)
    return made.tilted(**tilt) if tilt else made


def test_the_raw_logits_would_draw_nothing_else():
    out = MODEL.apply({"params": base().params}, np.int32([[0, 1, 4]]))
    assert (jax.nn.softmax(out.logits)[..., jnp.array(OUTSIDE)].sum(-1) > 0.99).all()


@pytest.mark.parametrize("kind", KINDS)
def test_draws_and_scores(kind):
    """Never drawn, greedily or not; scores are the draws' own, and those of all ids add to 1."""
    which = model(kind)
    prompts = [[0], [0, 3, 5]]  # the prompt may hold one
    # At a temperature of 1e6 all logits but -inf are one: greedy draws have nothing to add.
    greedy = [Method(0.0)] if kind in ("base", "nado") else []
    for method in (Method(), Method(1e6, top_k=6, top_p=0.99), *greedy):
        sampler = Sampler(which.policy, method, (0,), 3, 64)
        drawn = sample_prompts(
            sampler, which.variables, TokenizedPrompts(prompts), jax.random.key(0), 128
        )
        assert np.isfinite(drawn.log_probs).all() and not np.isin(drawn.tokens, OUTSIDE).any()
        if method == Method():
            prefixes = [prompts[i // 64] for i in range(128)]
            new = [row[:n] for row, n in zip(drawn.tokens, drawn.length)]
            rows = sequences(prefixes, new, 0, 8)
            scored = score(which.policy, which.variables, rows, 128).sum(1)
            np.testing.assert_allclose(scored, drawn.log_probs.sum(1), rtol=0, atol=1e-4)
    tokens = np.pad(np.int32([[0, 5, token] for token in INSIDE]), ((0, 0), (0, 5)))
    rows = Sequences(tokens, np.full(4, 2, np.int32), np.full(4, 3, np.int32))
    scores = score(which.policy, which.variables, rows, 128)  # by the program from above
    np.testing.assert_allclose(np.exp(np.float64(scores).sum(1)).sum(), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["base", "merge", "projected-merge"])
def test_beams(kind):
    which = model(kind)
    search = Beam(which.policy, (0,), 3, 9, 9)
    found = beam_prompts(search, which.variables, TokenizedPrompts([[0], [0, 3, 5]]), 18)
    assert not np.isin(found.tokens, OUTSIDE).any() and np.isfinite(found.scores).all()


@pytest.mark.parametrize("tilt", [{"strength": 0.0}, {"strength": 5.0}, {"target_rate": 0.9},
                                  {"reject": 0.5}], ids=str)  # fmt: skip
def test_tilted_controls(tilt):
    which = model("nado", **tilt)
    sampler = Sampler(which.policy, Method(), (0,), 3, 64)
    drawn = sample_prompts(
        sampler, which.variables, TokenizedPrompts([[0, 5]]), jax.random.key(0), 64
    )
    assert np.isfinite(drawn.log_probs).all() and not np.isin(drawn.tokens, OUTSIDE).any()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_untrained_control_is_the_base(kind):
    which = model(kind, fresh=True)
    tokens = np.int32([[0, 5, 1, 4, 0, 0, 0, 0], [0, 1, 5, 5, 4, 0, 0, 0]])
    rows = Sequences(tokens, np.int32([2, 1]), np.int32([5, 6]))
    q, p = (score(x.policy, x.variables, rows, 128) for x in (which, base()))
    np.testing.assert_allclose(q, p, rtol=0, atol=1e-5)


@pytest.mark.parametrize("link", ["policy", "plain", "sigmoid"])
def test_scalars_and_gradients_are_those_of_a_smaller_vocabulary(link):
    """As if the rows were not there; theirs get no gradient, whatever the prompt holds."""
    rng = np.random.default_rng(0)
    hidden, base_hidden = rng.normal(size=(2, 9, 6)).astype(np.float32)
    matrix, base_matrix = rng.normal(size=(2, 7, 6)).astype(np.float32)
    matrix[OUTSIDE] *= 30  # peaks, if they counted
    tokens = np.array(INSIDE * 2 + [1])
    fewer = np.searchsorted(INSIDE, tokens)
    weights = rng.normal(size=(8, 9)).astype(np.float32)

    def value(hidden, matrix, frozen, tokens, excluded_ids):
        out = direction_scalars(link, (hidden, matrix), frozen, tokens, 4, excluded_ids)
        return (jnp.stack(out) * weights).sum(), out

    gradient = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True), static_argnums=4)
    (_, out), (of_hidden, of_matrix) = gradient(
        hidden, matrix, (base_hidden, base_matrix), tokens, EXCLUDED
    )
    (_, plain), (plain_hidden, plain_matrix) = gradient(
        hidden, matrix[INSIDE], (base_hidden, base_matrix[INSIDE]), fewer, ()
    )
    for mine, theirs in zip((*out, of_hidden), (*plain, plain_hidden)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_matrix[jnp.array(INSIDE)], plain_matrix, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(of_matrix[jnp.array(OUTSIDE)], 0)
    # A prompt's token may be one of them: nothing of it is left once it is masked.
    log_prob = jax.grad(lambda h: 0 * token_log_probs(h, matrix, tokens * 0 + 2, 4, EXCLUDED).sum())
    np.testing.assert_array_equal(log_prob(hidden), 0)


def test_without_excluded_ids_the_program_is_the_same():
    def text(excluded_ids):
        out = jax.jit(lambda h, m, t: token_log_probs(h, m, t, 4, excluded_ids))
        return out.lower(np.ones((4, 3), np.float32), np.ones((7, 3), np.float32),
                         np.zeros(4, np.int32)).as_text()  # fmt: skip

    assert text(()).count("select") < text(EXCLUDED).count("select")
    assert "excluded_ids" not in to_config(MODEL)


@pytest.fixture
def folder(tmp_path):
    """A base with a special token besides eos, an added word, and 3 rows beyond the tokenizer."""
    codec = train_codec(["a dog runs"], 300)
    known = len(codec.tokenizer)
    codec.tokenizer.add_special_tokens({"pad_token": "<pad>"})
    codec.tokenizer.add_tokens(["zebra"])
    model = GPT2(GPT2Config(vocab_size=known + 5, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    save_base(tmp_path, model, init_params(model, 0), codec)
    return tmp_path, known


def test_a_folder_says_which_ids_have_no_text(folder):
    path, known = folder
    base = load(path)
    assert base.model.excluded_ids == ((known, known + 1), (known + 2, known + 5))
    assert base.codec.eos_id not in range(known, known + 5)
    assert read_config(path).items() >= {"bos_token_id": 0, "eos_token_id": 0}.items()
    (spelled,) = base.codec.targets(["a <pad> dog"])  # text is text: it is not that token
    assert not set(range(*base.codec.excluded_ids(len(base.codec.tokenizer))[0])) & set(spelled)
    assert base.codec.targets(["a dog zebra"]) and base.codec.prompts(["a <pad>"])
    assert "<pad>" not in repr(base) and len(repr(base)) < 300
    (path / "tokenizer.json").unlink()
    bare = load(path)
    assert bare.model.excluded_ids == ()
    with pytest.raises(InputError, match="no tokenizer"):
        print(bare.codec)

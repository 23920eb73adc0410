"""The BERT family against numbers from the PyTorch ones (tests/golden/make_bert.py), and decoders
against the same in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from scipy.special import erf
from support import tiny
from support.folders import refused

from dinado_jax.models.bert import Bert, BertConfig, init_params, with_cross_attention
from dinado_jax.models.bert_checkpoint import parse_config, read_params
from dinado_jax.models.hf_folder import read_config
from dinado_jax.models.params import by_path

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CONFIG = BertConfig(
    vocab_size=23,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=8,
    position_offset=1,
)
ENCODER, DECODER = Bert(CONFIG), Bert(CONFIG, cross_attention=True)
RNG = np.random.default_rng(0)
LENGTHS, CONTEXT_LENGTHS = np.array([6, 3]), np.array([2, 5])
MASK = np.arange(6) < LENGTHS[:, None]
TOKENS = RNG.integers(CONFIG.vocab_size, size=MASK.shape, dtype=np.int32)
SEEN = np.arange(5) < CONTEXT_LENGTHS[:, None]
STATES = RNG.normal(size=(*SEEN.shape, CONFIG.hidden_size)).astype(np.float32)


@functools.cache
def encoder_params():
    """No bias is 0, no LayerNorm scale is 1."""
    return tiny.noisy(jax.jit(functools.partial(init_params, ENCODER))(jax.random.key(0)), 0.2)


@functools.cache
def decoder_params():
    """Its cross-attention adds something."""
    return tiny.noisy(jax.jit(functools.partial(init_params, DECODER))(jax.random.key(0)), 0.2)


@jax.jit
def decode(params, tokens, mask, states, seen):
    return DECODER.apply({"params": params}, tokens, mask, (states, seen))


@pytest.mark.parametrize("name", ["plain", "older", "roberta"])
def test_states_and_logits_are_those_of_torch(name):
    folder = support.GOLDEN / f"bert_{name}"
    config = parse_config(read_config(folder))
    model, (params, new) = Bert(config), read_params(folder, config)
    assert not new

    @jax.jit
    def run(params, tokens, mask):
        hidden = model.apply({"params": params}, tokens, mask)
        return hidden, model.apply({"params": params}, hidden, method="vocabulary_logits")

    with np.load(folder / "golden.npz") as golden, jax.default_matmul_precision("highest"):
        mask = golden["mask"]
        hidden, logits = run(params, golden["tokens"], mask)
        assert logits.dtype == jnp.float32
        for found, wanted in ((hidden, golden["hidden"]), (logits, golden["logits"])):
            np.testing.assert_allclose(found[mask], wanted[mask], rtol=0, atol=1e-5)


def test_every_token_sees_its_row_and_nothing_else():
    """The gradient of one token's state by the table of words, each of which stands once."""
    params = encoder_params()
    tokens = np.arange(MASK.size, dtype=np.int32).reshape(MASK.shape)

    @jax.jit
    @jax.grad
    def gradient(table, row, position):
        embeddings = params["embeddings"] | {"word_embeddings": {"embedding": table}}
        hidden = ENCODER.apply({"params": params | {"embeddings": embeddings}}, tokens, MASK)
        return jnp.sin(hidden[row, position]).sum()

    table = params["embeddings"]["word_embeddings"]["embedding"]
    for row, position in ((0, 0), (0, 5), (1, 1)):
        moved = np.abs(gradient(table, row, position)).sum(-1)[: MASK.size].reshape(MASK.shape)
        np.testing.assert_array_equal(moved > 1e-6, MASK & (np.arange(2) == row)[:, None])


def test_padding_is_not_seen():
    params = decoder_params()
    hidden = decode(params, TOKENS, MASK, STATES, SEEN)
    others = np.where(MASK, TOKENS, (TOKENS + 3) % CONFIG.vocab_size)
    states = np.where(SEEN[..., None], STATES, 100.0)
    again = decode(params, others, MASK, states, SEEN)
    np.testing.assert_array_equal(hidden[MASK], again[MASK])
    assert np.abs(hidden - again)[~MASK].max() > 0.01
    # A row by itself, without its padding.
    for row, (length, seen) in enumerate(zip(LENGTHS, CONTEXT_LENGTHS)):
        cut = [x[row : row + 1, :end] for x, end in ((TOKENS, length), (MASK, length))]
        cut += [x[row : row + 1, :seen] for x in (STATES, SEEN)]
        alone = decode(params, *cut)
        np.testing.assert_allclose(alone[0], hidden[row, :length], rtol=0, atol=1e-5)


def test_activations_of_16_bits():
    model = Bert(BertConfig(**(vars(CONFIG) | {"dtype": "bfloat16"})), cross_attention=True)

    def run(params):
        hidden = model.apply({"params": params}, TOKENS, MASK, (STATES, SEEN))
        return hidden, model.apply({"params": params}, hidden, method="vocabulary_logits")

    hidden, logits = jax.eval_shape(run, decoder_params())
    assert (hidden.shape, hidden.dtype) == ((2, 6, 12), jnp.bfloat16)
    assert (logits.shape, logits.dtype) == ((2, 6, 23), jnp.float32)


# Decoders


def in_float64(params, tokens, states):
    """The hidden states [T, D] of a decoder for one row of T tokens and a context [S, D]."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, p):
        x = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.layer_norm_eps)
        return x / scale * p["scale"] + p["bias"]

    def dense(x, p):
        return x @ p["kernel"].T + p["bias"]

    def attention(x, states, p):
        width, heads = CONFIG.hidden_size // CONFIG.num_attention_heads, []
        q, k, v = dense(x, p["query"]), dense(states, p["key"]), dense(states, p["value"])
        for start in range(0, CONFIG.hidden_size, width):
            own = slice(start, start + width)
            weights = np.exp(q[:, own] @ k[:, own].T / np.sqrt(width))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, own])
        return dense(np.concatenate(heads, -1), p["output"])

    tables = {name: p["embedding"] for name, p in params["embeddings"].items() if "embedding" in p}
    x = tables["word_embeddings"][tokens] + tables["token_type_embeddings"][0]
    x += tables["position_embeddings"][CONFIG.position_offset :][: len(tokens)]
    x = norm(x, params["embeddings"]["norm"])
    for number in range(CONFIG.num_hidden_layers):
        p = params[f"layer_{number}"]
        x = norm(x + attention(x, x, p["attention"]), p["attention_norm"])
        x = x + attention(x, states, p["cross_attention"])
        inner = dense(x, p["intermediate"])
        inner *= (1 + erf(inner / np.sqrt(2))) / 2
        x = norm(x + dense(inner, p["output"]), p["output_norm"])
    return x


def test_a_decoder_attends_to_its_context():
    params = decoder_params()
    hidden = decode(params, TOKENS, MASK, STATES, SEEN)
    for row, (length, seen) in enumerate(zip(LENGTHS, CONTEXT_LENGTHS)):
        wanted = in_float64(params, TOKENS[row, :length], STATES[row, :seen])
        np.testing.assert_allclose(hidden[row, :length], wanted, rtol=0, atol=1e-5)


def test_a_decoder_begins_as_the_language_model():
    """Operation by operation, as a compiler may round two programs differently."""
    params = encoder_params()
    decoder = with_cross_attention(params, CONFIG)
    plain = ENCODER.apply({"params": params}, TOKENS, MASK)
    for context in ((STATES, SEEN), None):
        hidden = DECODER.apply({"params": decoder}, TOKENS, MASK, context)
        np.testing.assert_array_equal(hidden, plain)


def test_everything_but_the_cross_attention_is_kept():
    params = encoder_params()
    decoder = by_path(with_cross_attention(params, CONFIG))
    assert decoder.keys() == by_path(decoder_params()).keys()
    for path, array in decoder.items():
        if "cross_attention/output" in path:
            assert not np.any(array)
        else:
            source = path.replace("cross_attention", "attention")
            np.testing.assert_array_equal(array, by_path(params)[source], err_msg=path)


def test_the_gradient_reaches_the_zero_projection():
    """And nothing else of the cross-attention at first."""
    params = with_cross_attention(encoder_params(), CONFIG)

    def loss(params):
        hidden = DECODER.apply({"params": params}, TOKENS, MASK, (STATES, SEEN))
        logits = DECODER.apply({"params": params}, hidden, method="vocabulary_logits")
        return jax.nn.log_softmax(logits)[..., 0].sum()

    gradients = by_path(jax.jit(jax.grad(loss))(params))
    for path, array in gradients.items():
        if "cross_attention" in path:
            assert np.any(array) == ("/output/" in path), path


# What is refused


def test_a_row_without_positions():
    tokens, mask = np.zeros((1, 8), np.int32), np.ones((1, 8), bool)
    refused(
        "a row of 8 tokens: the model has positions for 7",
        ENCODER.apply, {"params": encoder_params()}, tokens, mask,
    )  # fmt: skip


def test_a_context_of_an_encoder():
    refused(
        "a context for a model without cross-attention",
        ENCODER.apply, {"params": encoder_params()}, TOKENS, MASK, (STATES, SEEN),
    )  # fmt: skip


@pytest.mark.parametrize(
    "field, value",
    [
        ("vocab_size", 0),
        ("num_attention_heads", 5),
        ("position_offset", 8),
        ("position_offset", -1),
        ("hidden_act", "relu"),
    ],
)
def test_sizes_that_make_no_model(field, value):
    refused(f"{field}.* {value!r}[ :]", lambda: BertConfig(**(vars(CONFIG) | {field: value})))

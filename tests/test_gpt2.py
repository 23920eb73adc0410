"""GPT-2's own promises: the cache, padding, causality, precision, and what config.json may say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from dinado_jax.decoding.policy import Trunk
from dinado_jax.errors import InputError
from dinado_jax.models.gpt2 import GPT2, GPT2Config, empty_cache, init_params
from dinado_jax.weights import shapes

CONFIG = GPT2Config(vocab_size=11, n_positions=12, n_embd=16, n_layer=2, n_head=4, n_inner=24)
MODEL = GPT2(CONFIG)
B, T = 3, 9
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (B, T)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
HF = CONFIG.to_hf()


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def variables():
    return {"params": init_params(CONFIG, seed=1)}


@pytest.fixture(scope="module")
def apply():
    return jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def full(apply, variables):
    """Logits of the whole rows, in one pass without a cache."""
    return np.asarray(apply(variables, TOKENS).logits)


@pytest.mark.parametrize("prompt", [0, 4])
def test_cached_decoding_is_the_full_forward(apply, variables, full, prompt):
    """Token by token from an empty cache, and a prefill followed by single tokens."""
    cache = empty_cache(CONFIG, B, T + 2)
    pieces = [slice(0, prompt)] if prompt else []
    for piece in [*pieces, *(slice(t, t + 1) for t in range(prompt, T))]:
        out = apply(variables, TOKENS[:, piece], POSITIONS[:, piece], cache)
        cache = out.cache
        np.testing.assert_allclose(out.logits, full[:, piece], rtol=0, atol=1e-5)


def test_ragged_prompts_decode_as_each_row_alone(apply, variables, full):
    """The padding of a short row is never seen, and is overwritten as the row grows."""
    trunk, lengths = Trunk(MODEL), np.array([2, 6, 4], np.int32)
    steps = T - lengths.max()
    padded = np.where(np.arange(6) < lengths[:, None], TOKENS[:, :6], 7)
    prefill = jax.jit(trunk.prefill, static_argnums=3)
    logits, cache = prefill(variables, padded, lengths, 6 + steps)
    step = jax.jit(trunk.step)
    for n in range(steps):
        place = lengths + n
        np.testing.assert_allclose(logits, full[np.arange(B), place - 1], rtol=0, atol=1e-5)
        logits, cache = step(variables, cache, TOKENS[np.arange(B), place], place)
    for row, length in enumerate(lengths + steps):
        alone = apply(variables, TOKENS[row : row + 1]).logits[0, length - 1]
        np.testing.assert_allclose(logits[row], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_no_position_sees_a_later_one(variables, cached):
    """By gradient, with respect to the embedding of every position: exactly zero where later."""
    cache = empty_cache(CONFIG, B, T) if cached else None

    def logits_sum(table):
        """[T], because gradients of a sum over the vocabulary vanish: a fixed mix of logits."""
        params = {**variables["params"], "wpe": {"embedding": table}}
        logits = MODEL.apply({"params": params}, TOKENS, POSITIONS, cache).logits
        return jnp.einsum("btv,v->t", logits, jnp.arange(CONFIG.vocab_size) ** 0.5)

    table = variables["params"]["wpe"]["embedding"]
    moved = np.abs(jax.jit(jax.jacrev(logits_sum))(table)).max(-1)[:, :T]
    np.testing.assert_array_equal(np.triu(moved, 1), 0)
    assert (moved[np.tril_indices(T)] > 1e-4).all()


def test_bfloat16_activations_leave_logits_float32(variables, full):
    model = GPT2(dataclasses.replace(CONFIG, dtype="bfloat16"))
    out = jax.jit(model.apply)(variables, TOKENS)
    assert out.hidden.dtype == jnp.bfloat16 and out.logits.dtype == jnp.float32
    assert 0 < np.abs(out.logits - full).max() < 0.05 * np.abs(full).max()


def test_inner_width(variables):
    assert variables["params"]["h_0"]["mlp"]["c_fc"]["kernel"].shape == (16, 24)
    assert GPT2Config(n_embd=16, n_head=4).inner == 64
    assert shapes(CONFIG)["h_1/mlp/c_proj/kernel"] == (24, 16)


def test_config_json_goes_round():
    assert GPT2Config.from_hf(HF) == CONFIG
    assert GPT2Config.from_hf(HF | {"n_inner": None}).n_inner is None
    absent = {k: v for k, v in HF.items() if k not in ("n_inner", "layer_norm_epsilon")}
    assert GPT2Config.from_hf(absent) == dataclasses.replace(CONFIG, n_inner=None)


@pytest.mark.parametrize(
    "key, value",
    [
        ("vocab_size", None),
        ("n_embd", "16"),
        ("n_embd", 15),
        ("n_head", 0),
        ("n_layer", 2.0),
        ("n_layer", True),
        ("n_positions", -1),
        ("n_inner", "64"),
        ("n_inner", 64.0),
        ("n_inner", True),
        ("n_inner", 0),
        ("layer_norm_epsilon", "1e-5"),
        ("layer_norm_epsilon", None),
        ("layer_norm_epsilon", True),
        ("layer_norm_epsilon", 0.0),
        ("layer_norm_epsilon", float("nan")),
        ("activation_function", "relu"),
        ("tie_word_embeddings", False),
        ("scale_attn_by_inverse_layer_idx", True),
    ],
)
def test_config_json_refusals(key, value):
    with pytest.raises(InputError, match=key) as caught:
        GPT2Config.from_hf(HF | {key: value})
    assert "\n" not in str(caught.value)

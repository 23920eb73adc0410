"""The Llama family's own promises: windows, groups, positions, heads and deltas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, tiny_run

from dinado_jax.adapters.lora import LoRA, lora
from dinado_jax.config.schema import Delta
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.errors import InputError
from dinado_jax.models import cache
from dinado_jax.models.llama import Llama, LlamaConfig, Rope
from dinado_jax.models.params import abstract_params, init_params, param_shapes

CONFIG = LlamaConfig(
    vocab_size=11,
    max_position_embeddings=14,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
)
MODEL = Llama(CONFIG)
QWEN3 = MODEL.replace(model_type="qwen3", attention_bias=True, tie_word_embeddings=True)
WINDOWED = MODEL.replace(model_type="mistral", sliding_window=4)
B, T = 3, 9
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (B, T)).astype(np.int32)


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def variables():
    """Every parameter random, norms too."""
    return {"params": tiny.noisy(init_params(MODEL, seed=1), 0.1)}


def moved_by(model, variables):
    """[T, T] bool: whether the states of one position move with the embedding of another."""
    table = variables["params"]["embed_tokens"]["embedding"]
    once = np.arange(T, dtype=np.int32)[None]  # every token once: its row is its position's

    def states(table):
        params = {**variables["params"], "embed_tokens": {"embedding": table}}
        hidden = model.apply({"params": params}, once).hidden[0]
        return jnp.einsum("td,d->t", hidden, jnp.arange(16) ** 0.5)

    return np.abs(jax.jit(jax.jacrev(states))(table)).max(-1)[:, :T] > 1e-6


def test_what_a_position_sees(variables):
    """Exactly zero where later; in one layer no further back than the window, in two twice so."""
    np.testing.assert_array_equal(moved_by(MODEL, variables), np.tri(T))
    back = np.arange(T)[:, None] - np.arange(T)
    one = WINDOWED.replace(num_hidden_layers=1)
    np.testing.assert_array_equal(moved_by(one, variables), (back >= 0) & (back < 4))
    np.testing.assert_array_equal(moved_by(WINDOWED, variables), (back >= 0) & (back < 7))
    # With a full layer below it the upper window hides nothing.
    upper = WINDOWED.replace(full_layers=1)
    np.testing.assert_array_equal(moved_by(upper, variables), np.tri(T))


def test_only_distances_count(variables):
    """Of rotary positions: states of a part that repeats, where all that they see repeats."""
    window = MODEL.replace(sliding_window=2, num_hidden_layers=1)
    tokens = np.int32([[1, 2, 3, 1, 2, 3]])
    logits = jax.jit(window.apply)(variables, tokens).logits[0]
    np.testing.assert_allclose(logits[4:], logits[1:3], rtol=0, atol=1e-5)


def test_caches_hold_key_and_value_heads_only(variables):
    policy = ModelPolicy(MODEL)
    prompts = Prompts(jnp.zeros((B, 4), jnp.int32), jnp.full(B, 4, jnp.int32))
    _, carry = jax.eval_shape(lambda: policy.prefill(variables, prompts, 2, 5))
    shapes = {x.shape for x in jax.tree.leaves(carry) if x.ndim == 3}
    assert shapes == {(B * 2, 4, 4), (B * 2 * 2, 5, 4)}


def test_a_new_head_has_logits_of_zero_and_a_cache_of_its_own(variables):
    head = MODEL.head(1)
    params = jax.jit(head.init)(jax.random.key(0))
    states, run = jax.jit(MODEL.apply)(variables, TOKENS).hidden, jax.jit(head.apply)
    out = run({"params": params}, states)
    assert out.logits.shape == (B, T, 11) and not out.logits.any()
    state = cache.allocate(run({"params": params}, states[:, :5]).cache, jnp.full(B, 5), 1, 4)

    def step(state, index):
        one = head.apply({"params": params}, states[:, 5 + index][:, None], state)
        return one.cache, one.hidden[:, 0]

    _, found = cache.scan_steps(step, state, 4)
    np.testing.assert_allclose(found.swapaxes(0, 1), out.hidden[:, 5:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", [MODEL, QWEN3], ids=["untied", "tied"])
def test_low_rank_deltas_of_all_matrices_are_as_if_merged(model):
    params = tiny.noisy(init_params(model, 0), 0.1)
    matrices = [path for path, shape in param_shapes(model).items() if len(shape) == 2]
    adapter = LoRA(2, 1.0, low_rank=tuple(matrices))
    delta = tiny.noisy(jax.jit(adapter.init)(jax.random.key(0), params), 0.2)

    def logits(delta):
        return model.apply(adapter.variables(params, delta), TOKENS).logits

    merged = jax.jit(model.apply)({"params": jax.jit(adapter.merge)(params, delta)}, TOKENS).logits
    out, pull = jax.vjp(jax.jit(logits), delta)
    np.testing.assert_allclose(out, merged, rtol=0, atol=2e-4)
    (gradient,) = pull(jnp.ones_like(out) * jnp.arange(11.0)[None, None])
    assert len(delta) == len(matrices)
    assert all(jnp.abs(g).max() > 1e-4 for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "model, free",
    [(MODEL, 5), (QWEN3, 5 + 4 + 2 * 4), (MODEL.replace(model_type="qwen2"), 5 + 2 * 3)],
)
def test_default_rules_are_kernels_norms_and_biases(model, free):
    adapter = lora(Delta(rank=2), model.delta_rules)
    delta = jax.eval_shape(adapter.init, jax.random.key(0), abstract_params(model))
    factored = [path for path, change in delta.items() if "a" in change]
    assert len(factored) == 2 * 7 and all(path.endswith("_proj/kernel") for path in factored)
    assert len(delta) - len(factored) == free


def test_llama3_frequencies_are_kept_interpolated_and_divided():
    rope = Rope(10_000.0, "llama3", 8.0, 1.0, 4.0, 8192)
    found, plain = rope.frequencies(128), Rope(10_000.0).frequencies(128)
    wavelength = 2 * np.pi / plain
    np.testing.assert_array_equal(found[wavelength < 2048], plain[wavelength < 2048])
    np.testing.assert_array_equal(found[wavelength > 8192], plain[wavelength > 8192] / 8)
    between = (wavelength > 2048) & (wavelength < 8192)
    share = (8192 / wavelength[between] - 1) / (4 - 1)
    wanted = plain[between] * (share + (1 - share) / 8)
    np.testing.assert_allclose(found[between], wanted, rtol=1e-5)
    assert between.sum() > 5


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"num_key_value_heads": 4},
        {"head_dim": 5},
        {"num_hidden_layers": -1},
    ],
)
def test_sizes_that_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(CONFIG, **change)


def test_a_name_for_people():
    assert str(QWEN3) == (
        "qwen3: 2 layers of width 16, 6 heads over 2 key/value heads, vocabulary 11, context 14"
    )

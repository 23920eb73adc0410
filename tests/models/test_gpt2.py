"""GPT-2's own promises: causality, sizes, and what config.json may say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_run

from dinado_jax.errors import InputError
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.gpt2_checkpoint import parse_config, to_config
from dinado_jax.models.params import init_params, param_shapes

CONFIG = GPT2Config(vocab_size=11, n_positions=12, n_embd=16, n_layer=2, n_head=4, n_inner=24)
MODEL = GPT2(CONFIG)
B, T = 3, 9
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (B, T)).astype(np.int32)
HF = to_config(MODEL)


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def variables():
    return {"params": init_params(MODEL, seed=1)}


def test_no_position_sees_a_later_one(variables):
    """By gradient, with respect to the embedding of every position: exactly zero where later."""

    def logits_sum(table):
        """[T], because gradients of a sum over the vocabulary vanish: a fixed mix of logits."""
        params = {**variables["params"], "wpe": {"embedding": table}}
        logits = MODEL.apply({"params": params}, TOKENS).logits
        return jnp.einsum("btv,v->t", logits, jnp.arange(CONFIG.vocab_size) ** 0.5)

    table = variables["params"]["wpe"]["embedding"]
    moved = np.abs(jax.jit(jax.jacrev(logits_sum))(table)).max(-1)[:, :T]
    np.testing.assert_array_equal(np.triu(moved, 1), 0)
    assert (moved[np.tril_indices(T)] > 1e-4).all()


def test_inner_width(variables):
    assert variables["params"]["h_0"]["mlp"]["c_fc"]["kernel"].shape == (24, 16)
    assert GPT2Config(n_embd=16, n_head=4).inner == 64
    assert param_shapes(MODEL)["h_1/mlp/c_proj/kernel"] == (16, 24)


def test_config_json_goes_round():
    assert parse_config(HF) == MODEL
    assert parse_config(HF | {"n_inner": None}).config.n_inner is None
    absent = {k: v for k, v in HF.items() if k not in ("n_inner", "layer_norm_epsilon")}
    assert parse_config(absent) == MODEL.replace(n_inner=None)


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
        parse_config(HF | {key: value})
    assert "\n" not in str(caught.value)

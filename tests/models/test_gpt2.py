"""GPT-2's own promises: the cache, padding, causality, precision, and what config.json may say."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_run

from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.errors import InputError
from dinado_jax.models import cache
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.gpt2_checkpoint import parse_config, to_config
from dinado_jax.models.params import abstract_params, init_params, param_shapes

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


@pytest.fixture(scope="module")
def apply():
    return jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def full(apply, variables):
    """Logits of the whole rows, in one pass without a cache."""
    return np.asarray(apply(variables, TOKENS).logits)


def decoded(variables, prompts, lengths, later, samples=1, segment=cache.SEGMENT):
    """Logits [N, R, V] at the prompts' ends and after each but the last of later [R, N] tokens."""
    steps = later.shape[1] - 1

    @jax.jit
    def run(variables, later):
        out = MODEL.apply(variables, prompts)
        ends = jnp.repeat(out.logits[jnp.arange(len(prompts)), lengths - 1], samples, 0)
        state = cache.allocate(out.cache, lengths, samples, steps, segment)

        def step(state, index):
            out = MODEL.apply(variables, later[:, index][:, None], state)
            return out.cache, out.logits[:, 0]

        _, rest = cache.scan_steps(step, state, steps)
        return jnp.concatenate([ends[None], rest])

    return run(variables, later)


@pytest.mark.parametrize("segment", [2, 3, 64])
@pytest.mark.parametrize("prompt", [1, 4])
def test_cached_decoding_is_the_full_forward(variables, full, prompt, segment):
    """A prefill followed by single tokens, in one segment of the cache or in several."""
    lengths = np.full(B, prompt, np.int32)
    logits = decoded(variables, TOKENS[:, :prompt], lengths, TOKENS[:, prompt:], segment=segment)
    assert len(logits) == T - prompt
    wanted = full[:, prompt - 1 : T - 1].swapaxes(0, 1)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 3])
def test_ragged_prompts_decode_as_each_row_alone(apply, variables, samples):
    """The padding of a short prompt is never seen, and samples of one prompt share its cache."""
    lengths, steps = np.array([2, 6, 4], np.int32), 3
    padded = np.where(np.arange(6) < lengths[:, None], TOKENS[:, :6], 7)
    later = np.random.default_rng(1).integers(0, 11, (B * samples, steps)).astype(np.int32)
    logits = decoded(variables, padded, lengths, later, samples)
    for row, tokens in enumerate(later):
        prompt = padded[row // samples, : lengths[row // samples]]
        alone = apply(variables, np.concatenate([prompt, tokens])[None]).logits[0]
        wanted = alone[len(prompt) - 1 : len(prompt) - 1 + steps]
        np.testing.assert_allclose(logits[:, row], wanted, rtol=0, atol=1e-5)


def test_a_decoding_loop_writes_its_caches_in_place(variables):
    """Whole caches aliased; what else is alive is no more than logits and two layers' caches."""
    vocabulary = 4096
    model = MODEL.replace(vocab_size=vocabulary, n_embd=64, n_positions=200)
    sampler = Sampler(ModelPolicy(model), Method(), (0,), 120, samples=2)
    params = {"params": abstract_params(model)}
    tokens, row = jnp.zeros((4, 8), jnp.int32), jnp.zeros(4, jnp.int32)
    state = jax.eval_shape(sampler.prefill, params, Prompts(tokens, row), row, jax.random.key(0))
    memory = Sampler.decode.lower(sampler, params, state).compile().memory_analysis()
    caches = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.carry))
    assert memory.alias_size_in_bytes >= caches
    assert memory.temp_size_in_bytes <= 8 * vocabulary * 4 + 2 * caches / CONFIG.n_layer


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


def test_rematerialised_blocks_are_computed_twice_for_the_same_gradient():
    longer = MODEL.replace(n_positions=64)
    params = init_params(longer, 1)
    tokens = np.random.default_rng(0).integers(0, 11, (8, 64)).astype(np.int32)

    def compiled(remat):
        model = longer.replace(remat=remat)

        def loss(params):
            return (model.apply({"params": params}, tokens).hidden ** 3).sum()

        return jax.jit(jax.grad(loss)).lower(params).compile()

    kept, recomputed = compiled(False), compiled(True)
    chex.assert_trees_all_close(kept(params), recomputed(params), rtol=1e-4, atol=1e-4)
    kept, recomputed = (one.cost_analysis()["flops"] for one in (kept, recomputed))
    assert recomputed > 1.1 * kept


def test_bfloat16_activations_leave_logits_float32(variables, full):
    model = MODEL.replace(dtype="bfloat16")
    out = jax.jit(model.apply)(variables, TOKENS)
    assert out.hidden.dtype == jnp.bfloat16 and out.logits.dtype == jnp.float32
    assert 0 < np.abs(out.logits - full).max() < 0.05 * np.abs(full).max()


def test_decoding_parameters_are_the_same_function_in_fewer_bytes(variables):
    model = MODEL.replace(dtype="bfloat16")
    params = variables["params"]
    fewer = model.decode_params(params)
    assert sum(x.nbytes for x in jax.tree.leaves(fewer)) < 0.7 * sum(
        x.nbytes for x in jax.tree.leaves(params)
    )
    apply = jax.jit(model.apply)
    outs = (apply({"params": which}, TOKENS) for which in (params, fewer))
    chex.assert_trees_all_equal(*(out.logits for out in outs))


def test_an_output_from_its_states(apply, variables):
    out = apply(variables, TOKENS)
    again = MODEL.output_from_states(variables["params"], out.hidden)
    np.testing.assert_allclose(again.logits, out.logits, rtol=0, atol=1e-5)


def test_flops_are_those_of_matrices_that_multiply(variables):
    params = {**variables["params"], "wpe": {}}  # positions are looked up, not multiplied
    matrices = sum(x.size for x in jax.tree.leaves(params) if x.ndim == 2)
    assert MODEL.flops_per_token == 2 * matrices


@pytest.mark.parametrize("layers", [1, 3])
def test_new_parts_have_the_asked_layers_and_float32_parameters(layers):
    model = MODEL.replace(param_dtype="bfloat16", excluded_ids=((2, 3),))
    trunk = model.trunk(layers)
    assert trunk.excluded_ids == model.excluded_ids and trunk.width == model.width
    for part in (trunk, model.head(layers)):
        params = jax.eval_shape(part.init, jax.random.key(0))
        blocks = [name for name in params if name.startswith("h_")]
        assert len(blocks) == layers
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_inner_width(variables):
    assert variables["params"]["h_0"]["mlp"]["c_fc"]["kernel"].shape == (16, 24)
    assert GPT2Config(n_embd=16, n_head=4).inner == 64
    assert param_shapes(MODEL)["h_1/mlp/c_proj/kernel"] == (24, 16)


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

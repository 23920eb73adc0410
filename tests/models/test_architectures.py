"""What every architecture promises: see models/protocol.py."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.models import cache
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.layers import attention_kernel
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.params import abstract_params, init_params
from dinado_jax.ops.backend import compiling_for

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LLAMA = Llama(
    LlamaConfig(
        vocab_size=11,
        max_position_embeddings=14,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
    )
)
MODELS = {
    "gpt2": GPT2(
        GPT2Config(vocab_size=11, n_positions=14, n_embd=16, n_layer=2, n_head=2, n_inner=24)
    ),
    "llama": LLAMA,
    "tied": LLAMA.replace(model_type="qwen3", attention_bias=True, tie_word_embeddings=True),
    "window": LLAMA.replace(model_type="mistral", sliding_window=4),
}
B, T = 3, 9
TOKENS = np.random.default_rng(0).integers(0, 11, (B, T)).astype(np.int32)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@functools.cache
def variables_of(model):
    """Every parameter random, norms too."""
    return {"params": tiny.noisy(init_params(model, seed=1), 0.1)}


@functools.cache
def compiled(model):
    return jax.jit(model.apply)


def decoded(model, prompts, lengths, later, samples=1, segment=cache.SEGMENT):
    """Logits [N, R, V] at the prompts' ends and after each but the last of later [R, N] tokens."""
    steps = later.shape[1] - 1

    @jax.jit
    def run(variables, later):
        out = model.apply(variables, prompts)
        ends = jnp.repeat(out.logits[jnp.arange(len(prompts)), lengths - 1], samples, 0)
        state = cache.allocate(out.cache, lengths, samples, steps, segment)

        def step(state, index):
            out = model.apply(variables, later[:, index][:, None], state)
            return out.cache, out.logits[:, 0]

        _, rest = cache.scan_steps(step, state, steps)
        return jnp.concatenate([ends[None], rest])

    return run(variables_of(model), later)


@pytest.mark.parametrize("name", ["gpt2", "window"])
@pytest.mark.parametrize("prompt, segment", [(1, 2), (4, 2), (1, 64), (4, 3)])
def test_cached_decoding_is_the_full_forward(name, prompt, segment):
    """A prefill followed by single tokens, in one segment of the cache or in several."""
    model, lengths = MODELS[name], np.full(B, prompt, np.int32)
    full = compiled(model)(variables_of(model), TOKENS).logits
    logits = decoded(model, TOKENS[:, :prompt], lengths, TOKENS[:, prompt:], segment=segment)
    assert len(logits) == T - prompt
    wanted = full[:, prompt - 1 : T - 1].swapaxes(0, 1)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", ["gpt2", "llama", "window"])
def test_ragged_prompts_decode_as_each_row_alone(name, samples):
    """The padding of a short prompt is never seen, and samples of one prompt share its cache. The
    window is shorter than prompts, and than what follows them; segments are shorter than it.
    """
    model, lengths, steps = MODELS[name], np.array([2, 6, 4], np.int32), 8
    padded = np.where(np.arange(6) < lengths[:, None], TOKENS[:, :6], 7)
    later = np.random.default_rng(1).integers(0, 11, (B * samples, steps)).astype(np.int32)
    logits = decoded(model, padded, lengths, later, samples, segment=3)
    for row, tokens in enumerate(later):
        prompt = padded[row // samples, : lengths[row // samples]]
        alone = np.zeros((1, 14), np.int32)  # later tokens change nothing: one program for all
        alone[0, : len(prompt) + steps] = np.concatenate([prompt, tokens])
        wanted = compiled(model)(variables_of(model), alone).logits[0, len(prompt) - 1 :][:steps]
        np.testing.assert_allclose(logits[:, row], wanted, rtol=0, atol=1e-5)


LARGER = {
    "gpt2": {"n_embd": 64, "n_head": 4, "n_positions": 200},
    "window": {
        "hidden_size": 64,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 200,
    },
}


@pytest.mark.parametrize("name", LARGER)
def test_a_decoding_loop_writes_its_caches_in_place(name):
    """Whole caches aliased; what else is alive is no more than logits and two layers' caches."""
    vocabulary = 4096
    model = MODELS[name].replace(vocab_size=vocabulary, **LARGER[name])
    sampler = Sampler(ModelPolicy(model), Method(), (0,), 120, samples=2)
    params = {"params": abstract_params(model)}
    tokens, row = jnp.zeros((4, 8), jnp.int32), jnp.zeros(4, jnp.int32)
    state = jax.eval_shape(sampler.prefill, params, Prompts(tokens, row), row, jax.random.key(0))
    memory = Sampler.decode.lower(sampler, params, state).compile().memory_analysis()
    caches = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.carry))
    assert memory.alias_size_in_bytes >= caches
    assert memory.temp_size_in_bytes <= 8 * vocabulary * 4 + 2 * caches / model.num_layers


@pytest.mark.parametrize(
    "name, length", [("gpt2", "n_positions"), ("llama", "max_position_embeddings")]
)
def test_rematerialised_blocks_are_computed_twice_for_the_same_gradient(name, length):
    longer = MODELS[name].replace(**{length: 64})
    params = init_params(longer, 1)
    tokens = np.random.default_rng(0).integers(0, 11, (8, 64)).astype(np.int32)

    def gradient(remat):
        model = longer.replace(remat=remat)

        def loss(params):
            return (model.apply({"params": params}, tokens).hidden ** 3).sum()

        return jax.jit(jax.grad(loss)).lower(params).compile()

    kept, recomputed = gradient(False), gradient(True)
    chex.assert_trees_all_close(kept(params), recomputed(params), rtol=1e-3, atol=1e-3)
    kept, recomputed = (one.cost_analysis()["flops"] for one in (kept, recomputed))
    assert recomputed > 1.1 * kept


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_bfloat16_activations_leave_logits_float32(name):
    model = MODELS[name]
    full = compiled(model)(variables_of(model), TOKENS).logits
    out = compiled(model.replace(dtype="bfloat16"))(variables_of(model), TOKENS)
    assert out.hidden.dtype == jnp.bfloat16 and out.logits.dtype == jnp.float32
    assert 0 < np.abs(out.logits - full).max() < 0.05 * np.abs(full).max()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_decoding_parameters_are_the_same_function_in_fewer_bytes(name):
    model = MODELS[name].replace(dtype="bfloat16")
    params = variables_of(MODELS[name])["params"]
    fewer = model.decode_params(params)
    assert sum(x.nbytes for x in jax.tree.leaves(fewer)) < 0.7 * sum(
        x.nbytes for x in jax.tree.leaves(params)
    )
    outs = (compiled(model)({"params": which}, TOKENS) for which in (params, fewer))
    chex.assert_trees_all_equal(*(out.logits for out in outs))


@pytest.mark.parametrize("name", ["gpt2", "llama", "tied"])
def test_an_output_from_its_states(name):
    model = MODELS[name]
    out = compiled(model)(variables_of(model), TOKENS)
    again = model.output_from_states(variables_of(model)["params"], out.hidden)
    np.testing.assert_allclose(again.logits, out.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name, looked_up", [("gpt2", ["wpe"]), ("llama", ["embed_tokens"]), ("tied", [])]
)
def test_flops_are_those_of_matrices_that_multiply(name, looked_up):
    multiplied = {k: v for k, v in abstract_params(MODELS[name]).items() if k not in looked_up}
    matrices = sum(x.size for x in jax.tree.leaves(multiplied) if len(x.shape) == 2)
    assert MODELS[name].flops_per_token == 2 * matrices


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name, block", [("gpt2", "h_"), ("window", "layers_")])
def test_new_parts_have_the_asked_layers_and_float32_parameters(name, block, layers):
    model = MODELS[name].replace(param_dtype="bfloat16", excluded_ids=((2, 3),))
    trunk = model.trunk(layers)
    assert trunk.excluded_ids == model.excluded_ids and trunk.width == model.width
    for part in (trunk, model.head(layers)):
        params = jax.eval_shape(part.init, jax.random.key(0))
        assert len([name for name in params if name.startswith(block)]) == layers
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "platform, dtype, width, length, kernel",
    [
        ("gpu", "bfloat16", 64, 36, "cudnn"),
        ("gpu", "float32", 64, 36, "xla"),
        ("gpu", "bfloat16", 20, 36, "xla"),
        ("gpu", "bfloat16", 160, 36, "xla"),
        ("gpu", "bfloat16", 64, 35, "xla"),
        ("cpu", "bfloat16", 64, 36, "xla"),
    ],
)
def test_attention_is_fused_where_cudnn_can(platform, dtype, width, length, kernel):
    with compiling_for(platform):
        assert attention_kernel(dtype, width, length) == kernel


@pytest.mark.parametrize("platform, kernel", [("gpu", "cudnn"), ("tpu", "xla")])
def test_attention_is_that_of_the_platform_it_is_compiled_for(model, monkeypatch, platform, kernel):
    model, asked = model.replace(dtype="bfloat16"), []

    def record(q, k, v, implementation, **options):
        asked.append(implementation)
        return q

    params = abstract_params(model)  # of a single token
    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    with compiling_for(platform):
        jax.eval_shape(lambda p: model.apply({"params": p}, TOKENS[:, :8]).hidden, params)
    assert set(asked) == {kernel}

"""A delta from layer k on: the same control as a whole delta without changes below k, from less
computation.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import tiny
from support.objectives import batch as batch_of
from support.objectives import objective, rows
from support.refusal import error_of

from dinado_jax.config import schema
from dinado_jax.config.schema import Delta, Parallel
from dinado_jax.controls.make import make_control
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.beam import Beam
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.decoding.score import score
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.guides.guided import guided_policy, guided_variables
from dinado_jax.guides.tilt import NEUTRAL, Tilt
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.params import abstract_params, init_params
from dinado_jax.objectives.direction_and_norm import TwoPartBatch
from dinado_jax.ops.masks import target_mask
from dinado_jax.training.cost_estimate import check_base, training
from dinado_jax.training.step import init_state, make_step, split_micro_batches

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FIRST = 1
LAYERS = {"gpt2": 2, "llama": 3, "llama tied": 2}
V = tiny.VOCABULARY
LLAMA = Llama(
    LlamaConfig(
        vocab_size=V,
        max_position_embeddings=16,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=LAYERS["llama"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
    )
)
MODELS = {
    "gpt2": tiny.model(layers=LAYERS["gpt2"]),
    "llama": LLAMA,
    "llama tied": LLAMA.replace(tie_word_embeddings=True, num_hidden_layers=LAYERS["llama tied"]),
}
KINDS = {
    "merge": {"kind": "merge"},
    "soft": {"kind": "soft", "trunk": "low_rank"},
    "projected merge": {"kind": "hard", "form": "projected", "direction": "merge"},
    "clamped soft": {"kind": "hard", "direction": "soft", "trunk": "low_rank"},
}
CASES = [
    ("gpt2", "projected merge", "ratio"),
    ("gpt2", "clamped soft", "prefixes"),
    ("llama", "merge", "warmup"),
    ("llama tied", "soft", "matching"),
]


def control_of(model, kind, first=FIRST, **delta):
    delta = Delta(**{"rank": 3, "alpha": 6.0} | delta, from_layer=first)
    return make_control(schema.Config(control=schema.Control(**KINDS[kind]), delta=delta), model)


def whole(control):
    """The same control, whose delta happens to have no factors below its first layer."""
    direction = dataclasses.replace(control.direction, from_layer=0)
    return dataclasses.replace(control, direction=direction)


@functools.cache
def arrays(name, kind):
    """Parameters of the base and of a control, none of them zero."""
    model = MODELS[name]
    base = tiny.noisy(init_params(model, seed=0), scale=0.1)
    return base, tiny.noisy(control_of(model, kind).init(jax.random.key(1), base, 0.2), 0.1)


def with_states(control, base, objective, batch, dtype="float32"):
    """The batch with the states that enter the first layer, in the parts that want them."""

    def filled(part):
        out = jax.jit(control.model.apply)({"params": base}, part.tokens)
        return dataclasses.replace(part, states=out.inputs[FIRST].astype(dtype))

    parts = objective.reads_states(control)
    if parts == ("",):
        return filled(batch)
    return dataclasses.replace(batch, **{part: filled(getattr(batch, part)) for part in parts})


def poisoned(model, base):
    """The base without what lies below the first layer, except for a tied head."""
    kept = {"embed_tokens", "wte"} if "lm_head" not in base else set()
    kept |= set(model.upper_params(base, FIRST))
    nan = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), base)
    return {name: (base if name in kept else nan)[name] for name in base}


@functools.partial(jax.jit, static_argnums=(0, 1))
def loss_and_gradient(objective, control, base, params, batch):
    def loss(params):
        terms = objective.terms(control, params, base, batch).values()
        return sum(term.coefficient * term.sum / term.weight for term in terms)

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize("name, kind, loss", CASES)
def test_losses_and_gradients_are_those_of_a_whole_delta(name, kind, loss):
    """From tokens, and from cached states without even reading what lies below them."""
    control, (base, params) = control_of(MODELS[name], kind), arrays(name, kind)
    which = objective(loss)
    batch = batch_of(loss, rows([1, 0, 0.5, 0, 1, 1]))
    wanted = loss_and_gradient(which, whole(control), base, params, batch)
    found = loss_and_gradient(which, control, base, params, batch)
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)
    cached = with_states(control, base, which, batch)
    assert cached is not batch
    found = loss_and_gradient(which, control, poisoned(control.model, base), params, cached)
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, changes, rtol", [("gpt2", {"remat": True}, 1e-4), ("llama", {"dtype": "bfloat16"}, 0.03)]
)
def test_with_remat_and_in_bfloat16(name, changes, rtol):
    base, params = arrays(name, "merge")
    control = control_of(MODELS[name].replace(**changes), "merge")
    which = objective("warmup")
    batch = rows([1, 0, 0.5, 0, 1, 1])
    wanted, gradient = loss_and_gradient(which, whole(control), base, params, batch)
    cached = with_states(control, base, which, batch, control.model.dtype)
    found, leaves = loss_and_gradient(which, control, base, params, cached)
    assert float(found) == pytest.approx(float(wanted), rel=rtol)
    error = jax.tree.map(jnp.subtract, leaves, gradient)
    assert optax.tree.norm(error) < rtol * optax.tree.norm(gradient)


@functools.cache
def step_under(settings):
    """The loss of a step from cached states, and the parameters after it."""
    control, which, transform = control_of(LLAMA, "merge"), objective("warmup"), optax.sgd(0.1)
    base, params = arrays("llama", "merge")
    lengths = {"prompt_length": [1, 3, 2, 6, 9, 4, 2, 2], "length": [10, 7, 3, 10, 10, 5, 8, 9]}
    batch = with_states(control, base, which, rows([1, 0, 0.5, 0, 1, 1, 1, 0], **lengths))
    plan = make_plan(settings)
    step = make_step(functools.partial(which.terms, control), transform, plan)
    state = plan.shard(jax.device_get(init_state(params, transform)))
    placed = plan.shard_batch(jax.device_get(split_micro_batches(batch, 1)))
    state, metrics = step(state, plan.shard(base), placed)
    return float(metrics["loss"]), jax.device_get(plan.gather(state.trainable))


@pytest.mark.parametrize(
    "settings",
    [Parallel(), Parallel(fsdp=4), Parallel(mode="shard_map"), Parallel(mode="pmap")],
    ids=str,
)
def test_a_step_on_several_devices(settings):
    one = step_under(Parallel(devices=1))
    chex.assert_trees_all_close(step_under(settings), one, rtol=1e-4, atol=1e-5)


def test_a_step_has_fewer_operations():
    """FLOPs of a step from layer 2 of 4, from tokens and from cached states; by hand, in passes
    through all layers, for the half of the rows that teach the direction and that for the norm:

        whole     forward, backward; base, policy    4
        from 2    1 + 1/2; 1 + 1/2                   3
        cached    1/2 + 1/2; 1/2 + 1/2               2
    """
    model = GPT2(GPT2Config(vocab_size=V, n_positions=16, n_embd=64, n_layer=4, n_head=2))
    base = abstract_params(model)
    settings = schema.Config(train=schema.Train(batch=16, objective="matching"))
    flops = {}
    for name, first in (("whole", 0), ("tokens", 2), ("cached", 2)):
        delta = schema.Delta(rank=1, from_layer=first)
        config = dataclasses.replace(settings, delta=delta)
        step, state, batch = training(config, make_control(config, model), base, 16)
        if name == "cached":
            states = jax.ShapeDtypeStruct((1, 8, 16, 64), jnp.float32)
            batch = TwoPartBatch(
                direction=dataclasses.replace(batch.direction, states=states),
                norm=dataclasses.replace(batch.norm, states=states),
            )
        lowered = make_step(*step).lower(state, base, batch)
        flops[name] = lowered.cost_analysis()["flops"]
    assert flops["whole"] / flops["tokens"] == pytest.approx(4 / 3, rel=0.1)
    assert flops["whole"] / flops["cached"] == pytest.approx(2, rel=0.1)


# Decoding

PROMPTS = [[3, 7], [5], [2, 9, 4, 1]]
STEPS, SAMPLES = 6, 3
TILT = Tilt(strength=0.7, target_rate=0.9)
DECODED = [("gpt2", "soft"), ("llama", "merge"), ("llama tied", "soft")]


def prompts() -> Prompts:
    return TokenizedPrompts(PROMPTS).batch(np.arange(len(PROMPTS)), 0, 4)


def q(control, base, params, tilt=TILT):
    policy = guided_policy(control.model, (control,), (tilt,))
    return policy, guided_variables(base, (control,), (params,), (tilt,))


@pytest.mark.parametrize("name, kind", DECODED[:2])
def test_samples_and_scores_are_those_of_a_whole_delta(name, kind):
    control, (base, params) = control_of(MODELS[name], kind), arrays(name, kind)
    ids, drawn = np.arange(len(PROMPTS), dtype=np.int32), []
    for each in (whole(control), control):
        policy, variables = q(each, base, params)
        sampler = Sampler(policy, Method(), (0,), STEPS, SAMPLES)
        drawn.append(jax.device_get(sampler(variables, prompts(), ids, jax.random.key(0))))
    wanted, found = drawn
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_allclose(found.log_probs, wanted.log_probs, rtol=0, atol=1e-4)
    new = [row[:count].tolist() for row, count in zip(found.tokens, found.length)]
    repeated = [prompt for prompt in PROMPTS for _ in range(SAMPLES)]
    scores = score(policy, variables, sequences(repeated, new, 0, 16), len(new))
    np.testing.assert_allclose(scores.sum(1), found.log_probs.sum(1), rtol=0, atol=1e-4)


def test_beams_are_those_of_a_whole_delta():
    control, (base, params) = control_of(LLAMA, "soft"), arrays("llama", "soft")
    wanted, found = (
        jax.device_get(Beam(policy, (0,), STEPS, beams=3, hypotheses=3)(variables, prompts()))
        for policy, variables in (q(each, base, params) for each in (whole(control), control))
    )
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-4)


def test_an_untilted_merge_scores_in_one_pass_what_a_tilt_of_nothing_decodes():
    control, (base, params) = control_of(MODELS["gpt2"], "merge"), arrays("gpt2", "merge")
    batch = tiny.batch([2, 1, 4], [9, 8, 12])
    reject = Tilt(reject=1e-30)  # decodes base and control, and changes nothing
    scores = []
    for policy, variables in (q(control, base, params, tilt) for tilt in (NEUTRAL, reject)):
        found = jax.jit(policy.log_probs)(variables, batch)
        scores.append(np.where(target_mask(batch), found, 0))
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name, kind", DECODED)
def test_the_control_s_cache_is_of_its_own_layers(name, kind):
    control, (base, params) = control_of(MODELS[name], kind), arrays(name, kind)

    def layers(control):
        policy, variables = q(control, base, params)
        _, state = jax.eval_shape(
            lambda variables, prompts: policy.prefill(variables, prompts, SAMPLES, STEPS),
            variables,
            prompts(),
        )
        caches = state.cache, state.guides[0].cache
        return [(len(cache.prompt), *map(len, cache.reserved)) for cache in caches]

    L = LAYERS[name]
    assert layers(whole(control)) == [(L, L)] * 2
    assert layers(control) == [(L, L), (L - FIRST, L - FIRST)]


# What a delta may change, and refusals


@pytest.mark.parametrize(
    "name, first", [("gpt2", 1), ("llama", 1), ("llama", 2), ("llama tied", 1)]
)
def test_nothing_below_its_first_layer_changes(name, first):
    model = MODELS[name]
    params = control_of(model, "merge", first).init(
        jax.random.key(0), init_params(model, seed=0), 0.2
    )
    layer, norm = ("h", "ln_f") if name == "gpt2" else ("layers", "norm")
    named = {path.partition("/")[0] for path in params["direction"]}
    assert named == {norm, *(f"{layer}_{number}" for number in range(first, LAYERS[name]))}


def test_an_untied_head_may_change():
    head = control_of(LLAMA, "merge", low_rank=("lm_head/embedding",), full=())
    assert list(head.direction.init(jax.random.key(0), init_params(LLAMA, seed=0))) == [
        "lm_head/embedding"
    ]


LEFT_OUT = "delta.from_layer = 1 leaves out embeddings and the layers below"


@pytest.mark.parametrize(
    "name, delta, message",
    [
        ("gpt2", {"first": 2}, "delta.from_layer = 2: the base has 2 layers, choose 0 to 1"),
        ("llama", {"first": 9}, "delta.from_layer = 9: the base has 3 layers, choose 0 to 2"),
        ("gpt2", {"low_rank": ("h_0/.*",)}, LEFT_OUT),
        ("gpt2", {"full": ("wte/embedding",)}, LEFT_OUT),
        ("gpt2", {"full": ("wpe/embedding",)}, LEFT_OUT),
        ("llama tied", {"low_rank": ("embed_tokens/embedding",)}, LEFT_OUT),
    ],
)
def test_refusals(name, delta, message):
    first = delta.pop("first", FIRST)
    few = {"max_new_tokens": 4}
    config = schema.Config(
        delta=schema.Delta(**delta, rank=3, from_layer=first),
        rollout=schema.Rollout(**few),
        decode=schema.Decode(**few),
    )
    said = error_of(check_base, config, MODELS[name])
    assert message in said
    assert ("matches no parameter" in said) == (message == LEFT_OUT)


@pytest.mark.parametrize("control", [{"kind": "nado"}, {"kind": "soft", "trunk": "small"}])
def test_a_control_without_a_delta_has_no_first_layer(control):
    config = schema.Config(control=schema.Control(**control), delta=schema.Delta(from_layer=9))
    assert make_control(config, MODELS["gpt2"]).direction.from_layer == 0

"""The PyTorch side of `dinado bench`: it computes what ours does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from flax.traverse_util import flatten_dict
from support import tiny

from dinado_jax.bench import decode, peer, train
from dinado_jax.bench.compiled import base_model
from dinado_jax.bench.measure import Request
from dinado_jax.config.schema import Train
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.models.gpt2_checkpoint import names
from dinado_jax.models.params import init_params
from dinado_jax.objectives.published import Published

torch = pytest.importorskip("torch")
torch_peer = peer.load(str(support.ROOT / "benchmarks" / "torch_peer.py"))

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SIZES = {
    "model_type": "gpt2",
    "vocab_size": 41,
    "max_position_embeddings": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
LLAMA = {
    **SIZES,
    "model_type": "llama",
    "intermediate_size": 24,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}
REQUEST = Request("", "", SIZES, "float32", layers=2, batch=4, prompt=5, length=12)


def tensor(array):
    return torch.tensor(np.asarray(array))


def fill(model, params, vocabulary=None):
    """Our parameters of a trunk into a GPT2LMHeadModel; `vocabulary` [V, D], where not its wte."""
    flat = flatten_dict(params, sep="/")
    given = {
        key: tensor(flat[path].T if path.endswith("/kernel") else flat[path])
        for key, path in names(model.config.n_layer).items()
        if path in flat
    }
    head = given.get("wte.weight") if vocabulary is None else tensor(vocabulary)
    given.setdefault("wte.weight", head)
    state = {f"transformer.{key}": value for key, value in given.items()}
    model.load_state_dict({**state, "lm_head.weight": head})


def fill_direction(direction, params):
    """Our parameters of nado's head, or of soft's trunk."""
    if isinstance(direction, torch_peer.Nado):
        fill(direction.model, params, params["vocabulary"])
        direction.c_in.weight.data = tensor(params["c_in"]["kernel"])
        direction.c_in.bias.data = tensor(params["c_in"]["bias"])
    else:
        fill(direction.model, params["trunk"], params["vocabulary"])


def ours(variant):
    """A control whose every parameter is random, on a base whose every one is."""
    request = dataclasses.replace(REQUEST, variant=variant)
    model = base_model(request)
    base = tiny.noisy(init_params(model, 0), 0.1)
    control = train.control_of(request, model)
    params = tiny.noisy(control.init(jax.random.key(1), base, 0.3), 0.1, seed=1)
    return request, base, control, params


@pytest.mark.parametrize("variant", ["merge", "soft", "nado"])
def test_the_loss_is_ours(variant):
    request, base, control, params = ours(variant)
    batch = train.rows(dataclasses.replace(request, what="train"))
    batch = batch.replace(states=control.model.apply({"params": base}, batch.tokens).hidden)
    terms = jax.jit(Published(Train()).terms, static_argnums=0)(control, params, base, batch)
    expected = sum(term.coefficient * term.sum / term.weight for term in terms.values())

    theirs = torch_peer.Training(request)
    fill(theirs.base, base)
    if variant == "merge":
        merged = control.direction.adapter.merge(base, params["direction"])
        fill(theirs.direction.model, merged)
    else:
        fill_direction(theirs.direction, params["direction"])
    if variant != "nado":
        inner, _, out = theirs.norm
        given = params["norm"]
        inner.weight.data, inner.bias.data = tensor(given["hidden"].T), tensor(given["hidden_bias"])
        out.weight.data = tensor(given["out"][None])
        out.bias.data = tensor(given["out_bias"][None])
    loss = theirs(tensor(batch.tokens).long(), tensor(batch.label))
    assert float(expected) > 0.1
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)
    loss.backward()
    assert all(p.grad is None for p in theirs.base.parameters())


@pytest.mark.parametrize("way", ["cached head", "recomputed head"])
@pytest.mark.parametrize("variant", ["soft", "nado"])
def test_greedy_continuations_are_ours(variant, way):
    request, base, control, params = ours(variant)
    request = dataclasses.replace(request, way=way)
    prompts = decode.prompts_of(request)
    sampler = Sampler(control.policy, Method(temperature=0), decode.NEVER, request.length)
    lengths = np.full(len(prompts), request.prompt, np.int32)
    expected = sampler(
        control.policy_variables(base, params),
        Prompts(prompts, lengths),
        lengths,
        jax.random.key(0),
    ).tokens

    model = torch_peer.random_model(SIZES, "float32")
    fill(model, base)
    direction = {"soft": torch_peer.Soft, "nado": torch_peer.Nado}[variant](request, "float32")
    fill_direction(direction, params["direction"])
    with torch.inference_mode():
        given = tensor(prompts).long()
        plain, found = (
            torch_peer.generate(request, model, each, given, do_sample=False)
            for each in (None, direction)
        )
    np.testing.assert_array_equal(found, expected)
    assert (plain != found).any()


@pytest.mark.parametrize(
    "what, way, variant",
    [
        ("train", "torch", "merge"),
        ("train", "peft", "merge"),
        ("decode", "generate", "base"),
        ("decode", "cached head", "nado"),
    ],
)
def test_programs_of_the_llama_family_run(what, way, variant):
    request = dataclasses.replace(REQUEST, what=what, way=way, variant=variant, model=LLAMA)
    program = torch_peer.program(request)
    program.run()
    if what == "decode":
        expected = decode.program(request).figures["step_bytes"]
        assert program.figures["step_bytes"] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "what, way, variant",
    [
        ("train", "torch", "merge"),
        ("train", "peft", "merge"),
        ("train", "torch", "nado"),
        ("decode", "generate", "base"),
        ("decode", "cached head", "nado"),
        ("rollout", "recomputed head", "soft"),
        ("beam", "generate", "base"),
    ],
)
def test_programs_run(what, way, variant, dtype):
    options = {"rollout": {"samples": 2}, "beam": {"beams": 3}}.get(what, {})
    request = dataclasses.replace(
        REQUEST, what=what, way=way, variant=variant, dtype=dtype, **options
    )
    program = torch_peer.program(request)
    out = program.run()
    assert program.figures["device"]
    if what in ("decode", "beam"):
        assert out.shape == (4, 12)
    if what == "rollout":
        assert len(out) == 4
    # In bfloat16 what ours has trained stays float32, and its soft reads a norm too.
    if what != "train" and (dtype == "float32" or variant == "base"):
        expected = decode.program(request).figures["step_bytes"]
        # `generate` copies a prompt's cache to each of its rows, ours is shared by them.
        copies = request.batch * request.beams - request.batch // request.samples
        layers, width = SIZES["num_hidden_layers"], SIZES["hidden_size"] * jnp.dtype(dtype).itemsize
        expected += copies * request.prompt * 2 * layers * width
        assert program.figures["step_bytes"] == pytest.approx(expected, rel=0.1)

"""A throw-away architecture joins through the table alone: a network and a checkpoint format."""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file
from support import ROOT, tiny

import dinado_jax
from dinado_jax.adapters.lora import LoRA
from dinado_jax.adapters.peft import save_adapter
from dinado_jax.config import schema
from dinado_jax.controls.make import make_control
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError
from dinado_jax.language_model import Controlled
from dinado_jax.models import hf_folder
from dinado_jax.models.architectures import ARCHITECTURES, configured_model, load_model
from dinado_jax.models.cache import KV, Cache, attend, fold_heads
from dinado_jax.models.layers import Dense, Embed
from dinado_jax.models.output import Output
from dinado_jax.models.protocol import DeltaRules
from dinado_jax.models.tokenizer import train_codec
from dinado_jax.objectives.draws import LabeledBatch
from dinado_jax.objectives.warmup import Warmup
from dinado_jax.training.cost_estimate import check_base
from dinado_jax.training.step import init_state, make_step, split_micro_batches

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# The architecture: embeddings without positions, one block of attention with one head, and an
# output matrix of its own.


class Mixer(nn.Module):
    """States [B, T, D] -> states, and the cache."""

    width: int

    @nn.compact
    def __call__(self, x, cache):
        B, T, D = x.shape
        mixed = Dense(3 * D, "float32", name="mix")(x)
        q, k, v = (part[:, :, None] for part in jnp.split(mixed, 3, axis=-1))
        present = KV(fold_heads(k), fold_heads(v))
        if cache is None:
            out = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            cache = Cache((present,), jnp.full(B, T, jnp.int32))
        else:
            out, newest = attend(fold_heads(q), present, cache.layer(0))
            cache = cache.append((newest,))
        return x + out.reshape(B, T, D), cache


class Network(nn.Module):
    vocab_size: int
    width: int
    zeros: bool  # whether the output matrix starts at zero
    has_tokens: bool

    @nn.compact
    def __call__(self, x, cache=None):
        if self.has_tokens:
            x = Embed(self.vocab_size, self.width, "float32", "float32", name="tokens")(x)
        x, cache = Mixer(self.width, name="block")(x, cache)
        init = nn.initializers.zeros if self.zeros else nn.initializers.normal(0.5)
        words = self.param("words", init, (self.vocab_size, self.width))
        return Output(x, words, cache)


@dataclasses.dataclass(frozen=True)
class Head:
    """New layers on the states of a `Model`."""

    vocab_size: int
    width: int

    @property
    def network(self):
        return Network(self.vocab_size, self.width, zeros=True, has_tokens=False)

    def init(self, key):
        return self.network.init(key, jnp.zeros((1, 1, self.width)))["params"]

    def decode_params(self, params):
        return params

    def apply(self, variables, states, cache=None):
        return self.network.apply(variables, states, cache)


@dataclasses.dataclass(frozen=True)
class Model:
    vocab_size: int
    width: int
    context_length: int = 24
    excluded_ids: tuple = ()
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: bool = False
    model_type = "mixer"
    num_layers = 1
    delta_rules = DeltaRules(low_rank=("block/mix/kernel",), full=("block/mix/bias",))

    @property
    def network(self):
        return Network(self.vocab_size, self.width, zeros=False, has_tokens=True)

    @property
    def dropout_sites(self):
        return {}  # it takes no noise

    @property
    def flops_per_token(self):
        return 2 * (3 * self.width**2 + self.vocab_size * self.width)

    def init(self, key):
        return self.network.init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def apply(self, variables, tokens, cache=None):
        return self.network.apply(variables, tokens, cache)

    def output_from_states(self, params, states):
        return Output(states, params["words"], None)

    def decode_params(self, params):
        return params

    def trunk(self, layers):
        return self

    def head(self, layers):
        return Head(self.vocab_size, self.width)

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


# Its checkpoints: keys of their own, and kernels as (in, out).


class Format:
    KERNELS_IN_OUT = True

    def parse_config(self, hf: dict[str, Any]) -> Model:
        return Model(hf["words"], hf["size"])

    def to_config(self, model: Model) -> dict[str, Any]:
        return {"words": model.vocab_size, "size": model.width}

    def read_params(self, folder: Path, model: Model) -> dict:
        found, (V, D) = hf_folder.read_tensors(folder), (model.vocab_size, model.width)
        expected = {"in": (V, D), "out": (V, D), "mix.weight": (D, 3 * D), "mix.bias": (3 * D,)}
        hf_folder.check_tensors(found, expected, folder)
        mix = {"kernel": found["mix.weight"].T, "bias": found["mix.bias"]}
        return {
            "tokens": {"embedding": found["in"]},
            "block": {"mix": mix},
            "words": found["out"],
        }

    def to_tensors(self, params: dict, model: Model) -> dict[str, np.ndarray]:
        mix = params["block"]["mix"]
        return {
            "in": params["tokens"]["embedding"],
            "out": params["words"],
            "mix.weight": mix["kernel"].T,
            "mix.bias": mix["bias"],
        }

    def keys(self, model: Model) -> dict[str, str]:
        return {
            "tokens/embedding": "in",
            "words": "out",
            "block/mix/kernel": "mix.weight",
            "block/mix/bias": "mix.bias",
        }


TEXTS = ["a dog runs in the park", "a cat sits on a chair"]
D = 8


@pytest.fixture(autouse=True)
def architecture(monkeypatch):
    """The one line."""
    monkeypatch.setitem(ARCHITECTURES, "mixer", Format())


@functools.cache
def codec():
    return train_codec(TEXTS, 300)


def tensors():
    rng, V = np.random.default_rng(0), len(codec().tokenizer)
    shapes = {"in": (V, D), "out": (V, D), "mix.weight": (D, 3 * D), "mix.bias": (3 * D,)}
    return {key: rng.normal(0, 0.5, shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint that was made elsewhere."""
    path = tmp_path / "mixer"
    codec().save(path)
    config = {"model_type": "mixer", "words": len(codec().tokenizer), "size": D}
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors(), path / "model.safetensors")
    return path


@pytest.fixture
def base(folder):
    return dinado_jax.load(folder)


def test_adapters_leave_and_enter(base, folder, tmp_path):
    lora = LoRA(rank=2, alpha=3.0, low_rank=base.model.delta_rules.low_rank)
    delta = tiny.noisy(lora.init(jax.random.key(0), base.params), 0.2)
    save_adapter(tmp_path, base.model, lora, delta, str(folder))
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert stored["base_model.model.mix.lora_B.weight"].shape == (3 * D, 2)
    found = dinado_jax.load(folder, adapter=tmp_path).params
    chex.assert_trees_all_close(found, lora.merge(base.params, delta), rtol=0, atol=1e-6)


def settings(**control) -> schema.Config:
    return schema.Config(control=schema.Control(**control), delta=schema.Delta(rank=2))


def test_it_loads_and_computes_what_it_stands_for(base):
    stored = tensors()
    tokens = np.int32([[1, 5, 3]])
    x = stored["in"][tokens[0]]
    q, k, v = np.split(x @ stored["mix.weight"] + stored["mix.bias"], 3, axis=-1)
    scores = np.where(np.tri(3), q @ k.T / np.sqrt(D), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    hidden = x + weights / weights.sum(-1, keepdims=True) @ v
    logits = base.model.apply({"params": base.params}, tokens).logits
    np.testing.assert_allclose(logits[0], hidden @ stored["out"].T, rtol=1e-4, atol=1e-4)


def test_it_goes_round(base, tmp_path):
    base.save(tmp_path / "saved")
    again = dinado_jax.load(tmp_path / "saved")
    assert again.model == base.model
    jax.tree.map(np.testing.assert_array_equal, again.params, base.params)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "mixer"


def test_a_folder_of_neither_names_both(folder):
    (folder / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(InputError, match=r"'other'.*only \"gpt2\" .*or \"mixer\" models"):
        load_model(folder)


def test_it_generates_and_scores(base):
    completions = dinado_jax.generate(base, ["a dog"], samples=2, max_new_tokens=5)
    for each in completions:
        np.testing.assert_allclose(each.log_probs, each.log_probs_base, rtol=0, atol=1e-4)
    (best,) = dinado_jax.beam_search(base, ["a dog"], beams=2, max_new_tokens=5)
    assert best.log_probs.sum() <= 0


CONTROLS = {
    "merge": {"kind": "merge"},
    "nado": {"kind": "nado", "layers": 1},
    "soft": {"kind": "soft", "trunk": "small", "layers": 1},
    "soft low_rank": {"kind": "soft", "trunk": "low_rank"},
}


@pytest.mark.parametrize("kind", CONTROLS)
def test_controls_of_it_train_and_decode(base, kind):
    """One step of each; then what is sampled token by token is scored the same in one pass."""
    control = make_control(settings(**CONTROLS[kind]), base.model)
    optimizer = optax.sgd(0.03)
    step = make_step(functools.partial(Warmup(schema.Train()).terms, control), optimizer)
    prompts, targets = base.codec.prompts(TEXTS), base.codec.targets(TEXTS)
    rows = sequences(prompts, targets, base.codec.eos_id, base.model.context_length)
    batch = LabeledBatch(**vars(rows), label=np.ones(len(TEXTS), np.float32))
    state = init_state(control.init(jax.random.key(0), base.params, 0.3), optimizer)
    losses = []
    for _ in range(2):
        state, metrics = step(state, base.params, split_micro_batches(batch, 1))
        losses.append(float(metrics["loss"]))
    assert losses[1] < losses[0]
    q = Controlled(base, control, state.trainable)
    sampler = Sampler(q.policy, Method(), base.codec.stop_ids, 4, samples=3)
    drawn = sample_prompts(sampler, q.variables, TokenizedPrompts(prompts), jax.random.key(1), 6)
    new = [row[:n] for row, n in zip(drawn.tokens, drawn.length)]
    rows = sequences(np.repeat(prompts, 3, 0).tolist(), new, base.codec.eos_id, 24)
    scores = score(q.policy, q.variables, rows, 6).sum(1)
    np.testing.assert_allclose(scores, drawn.log_probs.sum(1), rtol=0, atol=1e-4)


def test_a_run_is_checked_against_it(folder):
    """By its config.json and shapes alone."""
    (folder / "model.safetensors").unlink()
    config = dataclasses.replace(settings(kind="merge"), base=schema.Base(path=str(folder)))
    model = configured_model(config.base)
    assert isinstance(model, Model)
    check_base(config, model)
    absent = dataclasses.replace(config, delta=schema.Delta(low_rank=("h_0/.*",), full=()))
    with pytest.raises(InputError, match=r"h_0.* matches no parameter: paths look like 'block/mix"):
        check_base(absent, model)


def test_nothing_outside_of_models_names_an_architecture():
    """Except for benchmarks, which compare GPT-2s with PyTorch's, and the settings [base]."""
    names = re.compile(
        r"GPT2|models\.gpt2|gpt2_checkpoint|\bwte\b|(?<!base)\.n_(embd|layer|head)\b(?! =)"
    )
    package = ROOT / "dinado_jax"
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] not in ("models", "config", "bench"):
            found = [line for line in path.read_text().splitlines() if names.search(line)]
            assert not found, (path, found)

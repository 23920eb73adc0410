"""Models, controls and batches small enough for tests."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.adapters.lora import lora
from dinado_jax.config.schema import Delta
from dinado_jax.controls.control import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.norm import MLP
from dinado_jax.data.batch import Batch
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.objectives.draws import LabeledBatch

VOCABULARY = 41
EVERYTHING = Delta(
    rank=3,
    alpha=6.0,
    low_rank=(r"h_\d+/(attn|mlp)/c_\w+/kernel", r"wte/embedding"),
    full=(r"wpe/embedding", r".*/ln_\d/\w+", r"ln_f/\w+", r".*/bias"),
)
SUCCESS_RATE = 0.1


def model(vocabulary: int = VOCABULARY, layers: int = 1) -> GPT2:
    return GPT2(
        GPT2Config(vocab_size=vocabulary, n_positions=16, n_embd=16, n_layer=layers, n_head=2)
    )


@cache
def base_params(layers: int = 1) -> dict:
    """A base whose every parameter is random, its biases and LayerNorms too."""
    with jax.ensure_compile_time_eval():  # the first call may come from a function being traced
        return noisy(init_params(model(layers=layers), seed=0), scale=0.1)


def noisy(tree, scale: float, seed: int = 0):
    """The tree with normal noise on every leaf; on kernels it is drawn as (in, out)."""
    rng = np.random.default_rng(seed)

    def noise(path, leaf):
        kernel = re.search(r"kernel'\](\['full'\])?$", jax.tree_util.keystr(path))
        drawn = (
            rng.standard_normal(leaf.shape[::-1]).T if kernel else rng.standard_normal(leaf.shape)
        )
        return jnp.asarray(leaf + scale * drawn.astype(np.float32))

    return jax.tree.map_with_path(noise, tree)


def control(delta: Delta = EVERYTHING) -> Control:
    return Control(model(), Merge(model(), lora(delta, model().delta_rules)), MLP(model().width))


def fresh_params(delta: Delta = EVERYTHING, success_rate: float = SUCCESS_RATE) -> dict:
    return control(delta).init(jax.random.key(1), base_params(), success_rate)


def random_params(delta: Delta = EVERYTHING, scale: float = 0.2) -> dict:
    """Parameters of a control far from its initial ones: no factor is zero any more."""
    return noisy(fresh_params(delta), scale)


def batch(prompt_length, length, *, label=None, width: int = 12, seed: int = 0) -> Batch:
    """Random rows of the given lengths, right-padded with 0, the eos of nobody; with labels a
    `LabeledBatch`."""
    rng = np.random.default_rng(seed)
    length = np.array(length, np.int32)
    tokens = rng.integers(1, VOCABULARY, (len(length), width)).astype(np.int32)
    tokens[np.arange(width) >= length[:, None]] = 0
    rows = Batch(tokens=tokens, prompt_length=np.array(prompt_length, np.int32), length=length)
    if label is None:
        return rows
    return LabeledBatch(**vars(rows), label=np.array(label, np.float32))

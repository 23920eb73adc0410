"""Twenty training steps on rows of very unequal lengths, under any plan; a script of its own for
several processes: `python twenty_steps.py OUT MODE:FSDP ...`."""

import functools
import sys
from pathlib import Path

import jax
import numpy as np
import optax

from dinado_jax.adapters.lora import lora
from dinado_jax.adapters.prefix import Prefix
from dinado_jax.config.schema import Delta, Optim, Parallel, Train
from dinado_jax.controls.control import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.norm import MLP
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.distributed.processes import connect, is_main
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.params import init_params
from dinado_jax.objectives.direction_and_norm import TwoPartBatch
from dinado_jax.objectives.draws import NormBatch
from dinado_jax.objectives.sft import likelihood
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.training.optimizer import optimizer
from dinado_jax.training.step import init_state, make_step, split_micro_batches

STEPS, ROWS, WIDTH = 20, 16, 12
MODEL = GPT2(GPT2Config(vocab_size=300, n_positions=16, n_embd=32, n_layer=1, n_head=4))
# What really has a gradient: where it is zero except for rounding, Adam makes steps of the noise.
DELTA = Delta(rank=8, low_rank=(r"h_\d/(attn|mlp)/c_\w+/kernel",), full=(r"ln_f/\w+",))
CONTROL = Control(MODEL, Merge(MODEL, lora(DELTA, MODEL.delta_rules)), MLP(32))
# Shared heads, biases, a window and an output head of its own.
LLAMA = Llama(
    LlamaConfig(
        model_type="qwen2",
        vocab_size=300,
        max_position_embeddings=16,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=5,
    )
)


def _rows(step: int, part: int) -> NormBatch:
    rng = np.random.default_rng((step, part))
    length = np.sort(rng.integers(3, WIDTH + 1, ROWS)).astype(np.int32)
    return NormBatch(
        tokens=rng.integers(0, 300, (ROWS, WIDTH)).astype(np.int32),
        prompt_length=np.full(ROWS, 2, np.int32),
        length=length,
        label=rng.integers(0, 2, ROWS).astype(np.float32),
        shift=np.zeros(ROWS, np.float32),
        suffix=rng.random((ROWS, WIDTH - 1), np.float32),
        rate=np.zeros(ROWS, np.float32),
        bellman=np.full(ROWS, 0.5, np.float32),
    )


@functools.cache
def _sft(model=MODEL):
    terms = functools.partial(likelihood, model, None)
    return terms, optax.sgd(0.3, momentum=0.9), init_params(model, 1), None, _rows


@functools.cache
def _prefix():
    adapter = Prefix(LLAMA, positions=2, shift=False, hidden=16)
    base = init_params(LLAMA, 1)
    terms = functools.partial(likelihood, adapter.adapted, adapter)
    params = adapter.init(jax.random.key(3), base)
    return terms, optax.sgd(0.3, momentum=0.9), params, base, _rows


@functools.cache
def _control():
    base = init_params(MODEL, 0)
    params = CONTROL.init(jax.random.key(2), base, 0.3)

    def batch(step, part):
        return TwoPartBatch(direction=_rows(step, part), norm=_rows(step, part + 1))

    transform = optimizer(Optim(learning_rate=3e-3, warmup=2), STEPS)
    terms = functools.partial(OBJECTIVES["matching"](Train()).terms, CONTROL)
    return terms, transform, params, base, batch


_PARTS = {
    "sft": _sft,
    "q": _control,
    "llama sft": functools.partial(_sft, LLAMA),
    "llama prefix": _prefix,
}


def run(
    *halves: Parallel, accumulate: int = 1, parts: tuple[str, ...] = ("sft", "q")
) -> dict[str, np.ndarray]:
    """Losses and parameters after STEPS steps of these parts, by name; an equal part of them under
    each of the settings."""
    out = {}
    for name in parts:
        terms, transform, params, frozen, batch = _PARTS[name]()
        state, losses = init_state(params, transform), []
        for settings, numbers in zip(halves, np.split(np.arange(STEPS), len(halves))):
            plan = make_plan(settings)
            step = make_step(terms, transform, plan)
            state, base = plan.shard(jax.device_get(state)), plan.shard(frozen)
            for number in numbers.tolist():
                placed = plan.shard_batch(split_micro_batches(batch(number, 0), accumulate))
                state, metrics = step(state, base, placed)
                losses.append(float(metrics["loss"]))
        out[f"{name}/loss"] = np.array(losses)
        for path, leaf in jax.tree.leaves_with_path(plan.gather(state.trainable)):
            out[name + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return out


if __name__ == "__main__":
    connect()
    for given in sys.argv[2:]:
        mode, fsdp = given.split(":")
        found = run(Parallel(mode=mode, fsdp=int(fsdp)))
        if is_main():
            np.savez(Path(sys.argv[1]) / f"{mode}_{fsdp}.npz", **found)

"""The tiniest run that goes through every stage, and oracles for it."""

import contextlib
import os

import jax
from jax.experimental.compilation_cache import compilation_cache

from dinado_jax.config import Config, load

# One shape of batch everywhere: rows of 9 to 16 tokens, prompts of at most 8.
SETTINGS = (
    "name=tiny",
    "task.train_examples=400",
    "rollout.oracle=tiny_run:even",
    "base.vocab_size=600",
    "base.n_positions=24",
    "base.n_embd=16",
    "base.n_layer=1",
    "base.n_head=2",
    "sft.steps=4",
    "sft.batch=8",
    "sft.max_length=16",
    "delta.rank=2",
    "rollout.prompts=8",
    "rollout.samples=4",
    "rollout.batch=32",
    "rollout.max_new_tokens=8",
    "train.steps=6",
    "train.rounds=2",
    "train.warmup_direction=0",
    "train.batch=8",
    "train.refresh_prompts=8",
    "train.refresh_samples=4",
    "decode.batch=32",
    "decode.max_new_tokens=8",
    "evaluate.prompts=8",
    "evaluate.samples=4",
    "parallel.devices=1",
    "run.log_every=1",
    "run.save_every=100",
)


def config(*overrides: str) -> Config:
    return load(None, [*SETTINGS, *overrides])


def _set(settings: dict) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # whether there is one is otherwise decided once


@contextlib.contextmanager
def quick_compilation(tmp_path_factory):
    """Programs are compiled fast rather than well, and equal ones only once: by whatever module,
    and by whichever worker."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "compiled"
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": 2**31,  # any limit makes reading and writing exclusive
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: jax.config.values[name] for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def even(prompts, texts):
    """Satisfied by about half of all texts, whatever the model."""
    return [len(text) % 2 == 0 for text in texts]


def never(prompts, texts):
    return [False] * len(texts)


def always(prompts, texts):
    return [True] * len(texts)


def short(prompts, texts):
    """An answer too few."""
    return [True] * (len(texts) - 1)


def undefined(prompts, texts):
    return [float("nan")] * len(texts)

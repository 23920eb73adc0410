"""The tiniest run that goes through every stage, and oracles for it."""

import contextlib
import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from dinado_jax.config.load import differences
from dinado_jax.config.schema import Config
from dinado_jax.stages.settings import load_config

CONFIG = Path(__file__).with_suffix(".toml")


def config(*overrides: str) -> Config:
    return load_config(CONFIG, overrides)


# The same as overrides of the demo.
SETTINGS = tuple(line.replace(" = ", "=", 1) for line in differences(config()))


def _set(settings: dict) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # whether there is one is otherwise decided once


@contextlib.contextmanager
def quick_compilation(tmp_path_factory):
    """Programs are compiled fast rather than well, and equal ones only once: by whatever module,
    by whichever worker, and with COMPILED_TESTS, a folder, by whichever run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = os.environ.get("COMPILED_TESTS", folder / "compiled")
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": 2**31,  # any limit makes reading and writing exclusive
        # With a limit every new entry reads the time of all others: small programs cost more to
        # keep than to compile.
        "jax_persistent_cache_min_compile_time_secs": 0.3,
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


def half(prompts, texts):
    return [0.5] * len(texts)


def hundredths(prompts, texts):
    """Probabilities of something rare, not rescaled."""
    return [(1 + len(text) % 2) / 100 for text in texts]


def percent(prompts, texts):
    return [50.0] * len(texts)


def short(prompts, texts):
    """An answer too few."""
    return [True] * (len(texts) - 1)


def undefined(prompts, texts):
    return [float("nan")] * len(texts)

"""dinado_jax: control of pretrained language models with NADO and DiNADO, in JAX and Flax.

    base = dinado_jax.load("path/or/hub-name")
    model = dinado_jax.load_run("runs/demo")
    for completion in dinado_jax.generate(model, ["dog chase kite ="]): ...

The public names below are imported when first used, so that importing the package costs nothing.
"""

import importlib

_HOMES = {
    "Base": "dinado_jax.language_model",
    "Controlled": "dinado_jax.language_model",
    "compose": "dinado_jax.language_model",
    "load": "dinado_jax.language_model",
    "load_run": "dinado_jax.stages.pipeline",
    "Completion": "dinado_jax.generation",
    "PromptSet": "dinado_jax.data.prompts",
    "generate": "dinado_jax.generation",
    "beam_search": "dinado_jax.generation",
    "InputError": "dinado_jax.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'dinado_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted(__all__)

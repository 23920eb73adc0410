"""dinado_jax: control of pretrained language models with NADO and DiNADO, in JAX and Flax.

    base = dinado_jax.load("path/or/hub-name")
    model = dinado_jax.fit(base, lambda text: "red" in text.split(), ["The house is"])
    for completion in model.generate(["The car is"], samples=4): ...

The public names below are imported when first used, so that importing the package costs nothing.
"""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dinado_jax.data.prompts import PromptSet as PromptSet
    from dinado_jax.errors import InputError as InputError
    from dinado_jax.generation import Completion as Completion
    from dinado_jax.generation import generate as generate
    from dinado_jax.language_model import Base as Base
    from dinado_jax.language_model import Controlled as Controlled
    from dinado_jax.language_model import compose as compose
    from dinado_jax.loading import load as load
    from dinado_jax.loading import load_control as load_control
    from dinado_jax.loading import load_hmm as load_hmm
    from dinado_jax.scoring import score as score
    from dinado_jax.search.beams import beam_search as beam_search
    from dinado_jax.search.exact import length_modes as length_modes
    from dinado_jax.search.particles import Particle as Particle
    from dinado_jax.search.particles import sample_by_particles as sample_by_particles
    from dinado_jax.stages.fit import fit as fit
    from dinado_jax.stages.pipeline import load_run as load_run

__version__ = "0.1.0"
_HOMES = {
    "Base": "dinado_jax.language_model",
    "Controlled": "dinado_jax.language_model",
    "compose": "dinado_jax.language_model",
    "load": "dinado_jax.loading",
    "load_control": "dinado_jax.loading",
    "load_hmm": "dinado_jax.loading",
    "load_run": "dinado_jax.stages.pipeline",
    "fit": "dinado_jax.stages.fit",
    "Completion": "dinado_jax.generation",
    "PromptSet": "dinado_jax.data.prompts",
    "generate": "dinado_jax.generation",
    "beam_search": "dinado_jax.search.beams",
    "length_modes": "dinado_jax.search.exact",
    "sample_by_particles": "dinado_jax.search.particles",
    "Particle": "dinado_jax.search.particles",
    "score": "dinado_jax.scoring",
    "InputError": "dinado_jax.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        module = sys.modules[__name__]  # with it Python suggests the nearest name
        raise AttributeError(
            f"module 'dinado_jax' has no attribute {name!r}", name=name, obj=module
        )
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted(__all__)

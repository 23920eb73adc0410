"""Arguments of the Python interface by a name that is none."""

from typing import TypedDict, Unpack

import pytest
from support.refusal import error_of

import dinado_jax
from dinado_jax.utils.arguments import known_keywords


class Settings(TypedDict, total=False):
    temperature: float


@known_keywords("colours are set by paint(..)")
def draw(prompts, *, samples=1, **settings: Unpack[Settings]):
    """Draws."""
    return prompts, samples, settings


def test_known_names_pass():
    assert draw(["a"], samples=2, temperature=0.5) == (["a"], 2, {"temperature": 0.5})
    assert draw(prompts=["a"]) == (["a"], 1, {})
    assert draw.__doc__ == "Draws."


def test_other_names_are_told_with_the_nearest_one():
    assert (
        error_of(lambda: draw([], sample=2))
        == "draw has no argument 'sample': did you mean samples?"
    )
    assert error_of(lambda: draw([], temprature=2)).endswith("did you mean temperature?")
    said = error_of(lambda: draw([], hue=2))
    assert said.endswith("it has prompts, samples, temperature; colours are set by paint(..)")


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: dinado_jax.fit("base", bool, ["a"], steps=3), 'as settings={"train.steps": 300}'),
        (lambda: dinado_jax.fit("base", bool, ["a"], setings={}), "did you mean settings?"),
        (lambda: dinado_jax.generate("base", ["a"], max_tokens=3), "did you mean max_new_tokens?"),
        (lambda: dinado_jax.generate("base", ["a"], strength=3), "model.tilted(strength=0.5)"),
        (lambda: dinado_jax.beam_search("base", ["a"], beam=3), "did you mean beams?"),
        (lambda: dinado_jax.load("base", dytpe="float32"), "did you mean dtype?"),
    ],
)
def test_the_public_functions_tell_them(call, said):
    assert said in error_of(call)

"""Prompts of keyword tasks."""

import pytest
from support.refusal import error_of

from dinado_jax.tasks.keyword.format import concepts_of, format_prompt


def test_prompt_and_its_inverse():
    assert format_prompt(["dog", "chase"]) == "dog chase ="
    assert concepts_of("dog chase =") == ("dog", "chase")
    assert concepts_of(format_prompt(("t-shirt",))) == ("t-shirt",)


@pytest.mark.parametrize("prompt", ["dog chase", "dog chase= ", "dog chase=", " =", "=", ""])
def test_malformed_prompts(prompt):
    assert repr(prompt) in error_of(concepts_of, prompt)


@pytest.mark.parametrize("concepts", [[], [""], ["ice cream"], ["dog "]])
def test_concepts_that_no_prompt_can_hold(concepts):
    error_of(format_prompt, concepts)

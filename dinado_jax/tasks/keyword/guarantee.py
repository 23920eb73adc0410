"""A base of which every text satisfies the lexical oracle."""

from collections.abc import Sequence

from dinado_jax import guarantee as general
from dinado_jax.data.prompts import PromptSet
from dinado_jax.language_model import Base, Controlled
from dinado_jax.tasks.keyword.oracle import LEXICAL


def guarantee(
    base: Base, prompts: Sequence[str] | PromptSet, max_new_tokens: int
) -> tuple[Controlled, PromptSet]:
    """Keeps a base to texts with every concept of their prompt, in any inflection.

    Args:
      base: to sample.
      prompts: in the format of keyword tasks.
      max_new_tokens: the most that will be drawn of each text.

    Returns:
      As `dinado_jax.guarantee.guarantee`.

    Raises:
      InputError: as that function, and for a prompt of another format.
    """
    return general.guarantee(base, prompts, max_new_tokens, LEXICAL)

"""The prompt format of keyword tasks: "dog chase =" is continued by a sentence with these words."""

from collections.abc import Sequence

from dinado_jax.errors import InputError, quote

_END = " ="


def format_prompt(concepts: Sequence[str]) -> str:
    """Writes a prompt: ("dog", "chase") -> "dog chase =".

    Raises:
      InputError: without concepts, or if a concept is empty or holds white space, so that the
        prompt could not be parsed again.
    """
    for concept in concepts:
        if concept.split() != [concept]:
            raise InputError(
                f"concept {quote(concept)}, keyword prompt: a concept is one word, join words by "
                "hyphens"
            )
    if not concepts:
        raise InputError("no concepts, keyword prompt: give at least one")
    return " ".join(concepts) + _END


def concepts_of(prompt: str) -> tuple[str, ...]:
    """Parses a prompt: "dog chase =" -> ("dog", "chase"), the inverse of `format_prompt`.

    Raises:
      InputError: if the prompt does not end in " =" or has no concepts before it.
    """
    concepts = tuple(prompt.removesuffix(_END).split())
    if not prompt.endswith(_END) or not concepts:
        raise InputError(f'prompt {quote(prompt)}, keyword task: write it as "dog chase ="')
    return concepts

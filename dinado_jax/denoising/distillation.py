"""Texts of an autoregressive model, for a denoiser to learn in place of references.

Where several texts are right for a prompt, a model that writes all positions at once mixes them. A
single text of each prompt, the likeliest one of a model that has learned the references, is easier
to learn: sequence-level distillation (Kim and Rush, arXiv 1606.07947), as is usual for parallel
decoding since Gu et al. (arXiv 1711.02281).
"""

from collections.abc import Sequence

from dinado_jax.errors import InputError
from dinado_jax.generation import Decodable, begin, generate
from dinado_jax.tasks.protocol import Example
from dinado_jax.utils.arguments import POSITIVE, require_integer
from dinado_jax.utils.progress import Progress, print_once

_BATCHES = 16  # between two lines of progress


def distil(
    teacher: Decodable,
    examples: Sequence[Example],
    *,
    max_new_tokens: int | None = None,
    batch: int = 64,
) -> list[Example]:
    """Replaces the references of examples by the teacher's greedy texts.

    Args:
      teacher: a base, or a base under a control.
      examples: with prompts as the teacher reads them.
      max_new_tokens: of a text; None: as for `generate`. Texts that do not end within them, and
        blank ones, are counted and left out.
      batch: prompts at once.

    Returns:
      An example for each prompt, in order of first appearance, with one reference.

    Raises:
      InputError: as `generate`, and where no text is left.
    """
    batch = require_integer("batch", batch, *POSITIVE)
    prompts = list(dict.fromkeys(one.prompt for one in examples))
    *_, most = begin(teacher, prompts, max_new_tokens)
    made = []
    with Progress("texts of the teacher", len(prompts), "text") as progress:
        for start in range(0, len(prompts), _BATCHES * batch):
            some = prompts[start : start + _BATCHES * batch]
            made += generate(teacher, some, max_new_tokens=most, batch=batch, temperature=0.0)
            progress.advance(len(some))
    kept = [Example(one.prompt, (one.text,)) for one in made if one.finished and one.text.strip()]
    if not kept:
        raise InputError(
            f"none of {len(made)} texts of the teacher ends within {most} tokens: raise "
            "max_new_tokens, or take a teacher that has learned the task"
        )
    if left_out := len(made) - len(kept):
        print_once(
            f"{left_out} of {len(made)} texts of the teacher are blank or do not end within {most} "
            "tokens, left out"
        )
    return kept

"""Keyword examples mined from plain text: a base pretrained on them uses the keywords of a prompt
before it sees the task (concept-to-sentence pretraining, as in CALM, arXiv 2011.07956).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dinado_jax.errors import InputError
from dinado_jax.tasks.keyword.format import concepts_of, format_prompt
from dinado_jax.tasks.keyword.lexical import forms, words
from dinado_jax.tasks.protocol import Example


def mine(lines: Sequence[str], examples: Sequence[Example], seed: int) -> list[Example]:
    """Makes an example from each line that contains concepts of the task in any of their forms.

    The prompt lists some of those concepts in random order: as many as a prompt of the task has
    (sizes are equally likely), or all of them if the line has fewer. Lines without a concept are
    skipped, as are concepts of several words (hot-dog). Of concepts that share a form, the one in
    most prompts is used.

    Args:
      lines: plain text, a sentence each.
      examples: of the task.
      seed: of sizes, choice and order.

    Raises:
      InputError: if no line contains a concept.
    """
    prompts = [concepts_of(prompt) for prompt in {example.prompt: None for example in examples}]
    named = Counter(concept for prompt in prompts for concept in prompt)
    concept_of = {
        form: concept for concept, _ in named.most_common()[::-1] for form in forms(concept)
    }
    sizes = sorted({len(prompt) for prompt in prompts})
    rng = np.random.default_rng(seed)
    mined = []
    for line, size in zip(lines, rng.choice(sizes, len(lines))):
        held = list({concept_of[word]: None for word in words(line) if word in concept_of})
        if held:
            chosen = rng.permutation(held)[:size].tolist()
            mined.append(Example(format_prompt(chosen), (line,)))
    if not mined:
        raise InputError(
            f"sft.pretrain_path, none of its {len(lines)} lines holds a concept of the task: give "
            "text about such things, or sft.pretrain_steps=0"
        )
    return mined

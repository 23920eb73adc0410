"""Your own prompts and a constraint that every text certainly satisfies.

    python examples/guaranteed_words.py runs/demo/sft/base prompts.txt

The control learns which of the texts that satisfy the constraint are likely, and reads what each
still lacks while it writes. The mask rules out the last mistakes: with it alone texts satisfy the
constraint too, and are further from the base.
"""

import sys
from pathlib import Path

import dinado_jax
from dinado_jax.constraints import at_most_words, contains
from dinado_jax.guarantee import guarantee

ORACLE = contains("red") & contains("the") & at_most_words(12)
NEW_TOKENS = 16


def main(base: str, file: str, oracle=ORACLE, settings=None, **how) -> list[str]:
    """Returns the texts; `how` as `dinado_jax.fit` takes it."""
    prompts = Path(file).read_text(encoding="utf-8").splitlines()
    settings = {"control.state": True, **(settings or {})}
    model = dinado_jax.fit(base, oracle, prompts, settings=settings, **how)
    mask, known = guarantee(model.base, prompts, NEW_TOKENS, oracle)
    made = dinado_jax.compose(model, mask).generate(known, max_new_tokens=NEW_TOKENS, samples=2)
    for one in made:
        print(one.prompt, one.text)
    return [one.text for one in made]


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Two controls of one base at once, each as strong as wanted.

    python examples/two_controls.py runs/demo/sft/base

The product is exact where the two oracles are independent under the base. The exact way is a second
control of the first one's q, see docs/python.md.
"""

import sys

import dinado_jax
from dinado_jax.constraints import at_most_words, contains

COLOUR, SHORT = contains("red"), at_most_words(6)
NOUNS, VERBS = ["dog", "cat", "girl", "baker", "man"], ["chase", "carry", "push", "lift"]
THINGS = ["ball", "hat"]
PROMPTS = [
    f"{noun} {verb} {thing} =" for noun in NOUNS for verb in VERBS for thing in ("ball", "hat")
]
HELD_OUT = ["fox chase ball =", "cook lift ball ="]


def main(base: str, oracles=(COLOUR, SHORT), **how) -> dict[str, float]:
    """Returns how often both oracles are satisfied; `how` as `dinado_jax.fit` takes it."""
    red, short = (dinado_jax.fit(base, oracle, PROMPTS, **how) for oracle in oracles)
    models = {
        "base": red.base,
        "red": red,
        "short": short,
        "both": dinado_jax.compose(red, short),
        "both, short milder": dinado_jax.compose(red, short.tilted(strength=0.5)),
    }
    found = {
        name: model.evaluate(HELD_OUT, oracles[0] & oracles[1], samples=32).success_rate
        for name, model in models.items()
    }
    for name, rate in found.items():
        print(f"{name:20} {rate:.1%}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])

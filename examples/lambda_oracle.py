"""A control for a lambda, from a base and a list of prompts.

python examples/lambda_oracle.py runs/demo/sft/base
"""

import sys

import dinado_jax

NOUNS, VERBS = ["dog", "cat", "girl", "baker", "fox", "man"], ["chase", "carry", "push", "lift"]
THINGS = ["ball", "kite", "box", "hat"]
PROMPTS = [f"{noun} {verb} {thing} =" for noun in NOUNS for verb in VERBS for thing in THINGS]
HELD_OUT = ["robot paint drum =", "cook drop box ="]


def main(base: str, oracle=lambda text: "red" in text.split(), **how) -> dinado_jax.Controlled:
    """Trains it, and shows other prompts before and after; `how` as `dinado_jax.fit` takes it."""
    model = dinado_jax.fit(base, oracle, PROMPTS, **how)
    for piece in model.generate(HELD_OUT[:1], stream=True):
        print(piece.text, end="\n" if piece.last else "", flush=True)
    for made in model.generate(HELD_OUT, samples=4):
        print(made.text, f"({made.log_probs.sum() - made.log_probs_base.sum():.2f} nats further)")
    print(model.evaluate(HELD_OUT, oracle))
    return model


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What a control makes of texts from anywhere: log q, log p, and R token by token.

python examples/score_texts.py runs/demo "dog chase kite =" "the dog chased a kite ." "a kite ."
"""

import sys

import dinado_jax


def main(run: str, prompt: str, *texts: str) -> dict[str, float]:
    """Returns log q - log p of each text, in nats."""
    model = dinado_jax.load_run(run)
    of_model = model.score([prompt] * len(texts), texts)
    of_base = model.base.score([prompt] * len(texts), texts)
    found = {text: float(q.sum() - p.sum()) for text, q, p in zip(texts, of_model, of_base)}
    for text, values in zip(texts, model.values_of([prompt] * len(texts), texts)):
        print(f"{text}: {found[text]:+.2f} nats under q")
        print(f"  {values.values[0]:.3f} after the prompt")
        for token, value in zip(values.tokens, values.values[1:]):
            print(f"  {value:.3f} after {token!r}")
    others = model.alternatives(prompt, texts[0])[0]
    print("instead of the first token:", ", ".join(f"{each.token!r}" for each in others))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])

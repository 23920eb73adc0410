"""Beams that know the length of a text, against beams that are cut there: one table.

    python benchmarks/length_beams.py RUN [--prompts 100] [--beams 4] [--lengths 6 9 12]

Held-out prompts of a run, its base, texts of so many tokens with the stop token. `cut` is the best
unfinished hypothesis of a plain search of one token less, made to end there; `exact` is found under
the guide of complete texts, and `complete` under the same with no bigram twice. Prints by length
nats per text of the three, the share of prompts where `exact` is at least as likely as `cut` (a
prompt with no unfinished hypothesis is left out), of those where it is likelier, and how many of
the `complete` have a repeated bigram or no text.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

import dinado_jax
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.score import score
from dinado_jax.evaluation.samples import read_samples
from dinado_jax.guides.complete import complete_guide
from dinado_jax.language_model import Base, Controlled


def ended(base: Base, prompt: str, tokens: list[int]) -> float:
    """Nats of tokens and the end of the text."""
    codec, limit = base.codec, base.model.context_length
    rows = sequences(codec.prompts([prompt]), [[*tokens, codec.eos_id]], codec.eos_id, limit)
    return float(score(base.policy, base.variables, rows, 1, width=limit).sum())


def degenerate(tokens: list[int]) -> bool:
    pairs = list(itertools.pairwise(tokens))
    return len(tokens) < 2 or len(set(pairs)) < len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[6, 9, 12])
    args = parser.parse_args()
    base = dinado_jax.load(args.run / "sft" / "base")
    asked = list(dict.fromkeys(s.prompt for s in read_samples(args.run / "generate/base.jsonl")))
    prompts, how = asked[: args.prompts], {"beams": args.beams, "length_penalty": 0.0}
    print("| tokens | cut | exact | complete | at least as likely | likelier | degenerate |")
    print("| ---: " * 7 + "|")
    for length in args.lengths:
        free = base.beam_search(prompts, max_new_tokens=length - 1, hypotheses=args.beams, **how)
        cut: dict[str, float] = {}
        for one in free:
            if not one.finished and one.prompt not in cut:
                cut[one.prompt] = ended(base, one.prompt, one.tokens.tolist())
        found = {}
        for name, n in (("exact", 0), ("complete", 2)):
            model = Controlled(base, *complete_guide(base.codec, length, length, n))
            made = model.beam_search(prompts, max_new_tokens=length, **how)
            found[name] = {one.prompt: one for one in made}
        exact = {p: float(one.log_probs_base.sum()) for p, one in found["exact"].items()}
        gains = np.array([exact[prompt] - nats for prompt, nats in cut.items()])
        whole = found["complete"].values()
        print(
            f"| {length} | {np.mean(list(cut.values())):.2f} | {np.mean(list(exact.values())):.2f} "
            f"| {np.mean([one.log_probs_base.sum() for one in whole]):.2f} "
            f"| {(gains > -1e-3).mean():.1%} of {len(gains)} | {(gains > 1e-3).mean():.1%} "
            f"| {sum(degenerate(one.tokens.tolist()) for one in whole)} of {len(whole)} |"
        )


if __name__ == "__main__":
    main()

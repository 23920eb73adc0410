"""Log-likelihoods of given texts, for benchmarks that ask what a base has learned or forgotten."""

from pathlib import Path

import numpy as np

from dinado_jax.language_model import Base


def losses(base: Base, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Nats and tokens of each text after its prompt, float64 [N, 2]; 0 where both together are too
    long for the context.
    """
    prompts, texts = (list(each) for each in zip(*pairs, strict=True))
    lengths = zip(base.codec.prompts(prompts), base.codec.targets(texts), strict=True)
    fit = np.array([len(a) + len(b) <= base.model.context_length for a, b in lengths])
    kept = np.flatnonzero(fit)
    found = base.score([prompts[n] for n in kept], [texts[n] for n in kept])
    out = np.zeros((len(pairs), 2))
    out[kept] = [(-each.sum(dtype=np.float64), len(each)) for each in found]
    return out


def pairs_of_lines(path: Path) -> list[tuple[str, str]]:
    """The first word of each line of a text file as a prompt, and the rest of the line."""
    lines = (line.partition(" ") for line in path.read_text().splitlines())
    return [(first, f" {rest}") for first, _, rest in lines]

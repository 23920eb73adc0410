"""An enumerable world: all sequences of a few tokens, a random oracle over them, and the optimum.

S sequences in rows of T = 1 + length tokens; V vocabulary. The first token is the prompt, token 0.
In a world with `ends` a later 0 is the end of a sequence, and pads its row.
"""

import dataclasses
import functools
import itertools

import jax.numpy as jnp
import numpy as np

from dinado_jax.data.batch import Array
from dinado_jax.data.sequences import Sequences
from dinado_jax.errors import InputError

_MOST = 300_000  # sequences
_LONGEST = 7  # new tokens: with the prompt 8, a single batch width


@dataclasses.dataclass(frozen=True)
class World:
    """The sequences, tables and oracles of a seed."""

    vocabulary: int = 6
    length: int = 4  # new tokens at most
    ends: bool = False  # sequences may end early, by token 0
    concentration: float = 1.0  # of the Dirichlet distributions of next tokens
    rarity: float = 0.02  # approximate success rate R0 of the base
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("vocabulary", 2), ("length", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)}: it must be at least {least}")
        for name, most in (("concentration", np.inf), ("rarity", 1)):
            if not 0 < getattr(self, name) < most:
                raise InputError(f"{name} = {getattr(self, name)}: it must lie in (0, {most})")
        if self.seed < 0:
            raise InputError(f"seed = {self.seed}: it must be 0 or more")
        if self.length > _LONGEST:
            raise InputError(f"length = {self.length}: it must be at most {_LONGEST}")
        if self.vocabulary**self.length > _MOST:
            raise InputError(
                f"vocabulary {self.vocabulary} and length {self.length} make "
                f"{self.vocabulary**self.length} sequences: at most {_MOST} are enumerated"
            )

    @functools.cached_property
    def rows(self) -> Sequences:
        """All sequences."""
        count = self.vocabulary**self.length
        digits = self.vocabulary ** np.arange(self.length)[::-1]
        tokens = (np.arange(count)[:, None] // digits % self.vocabulary).astype(np.int32)
        new = np.full(count, self.length)
        if self.ends:
            ended = np.cumsum(tokens == 0, axis=1) > 0
            # Rows that agree up to their end token are one sequence: keep the zero-padded one.
            keep = ~(ended & (tokens != 0)).any(1)
            tokens, ended = tokens[keep], ended[keep]
            new = np.minimum((~ended).sum(1) + 1, self.length)
        tokens = np.pad(tokens, ((0, 0), (1, 0)))
        ones = np.ones(len(tokens), np.int32)
        return Sequences(tokens, ones, (1 + new).astype(np.int32))

    def index(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the index of each row among all sequences: int32 [N, T] -> int64 [N]."""
        digits = self.vocabulary ** np.arange(self.length)[::-1]
        codes = self.rows.tokens[:, 1:] @ digits
        return np.searchsorted(codes, tokens[:, 1:] @ digits)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a sequence; -1 for none."""
        return (0,) if self.ends else (-1,)

    @property
    def inside(self) -> np.ndarray:
        """Mask of each row's tokens after the prompt: bool [S, T-1], column t for token t + 1."""
        return np.arange(self.length) < self.rows.length[:, None] - 1

    @property
    def prefixes(self) -> int:
        """Number of prefixes, without complete sequences."""
        return sum(self.vocabulary**k for k in range(self.length))

    @functools.cached_property
    def prefix(self) -> np.ndarray:
        """Number of the prefix before each token: int32 [S, T-1], column t for token t + 1."""
        return prefix_numbers(self.rows.tokens, self.vocabulary)[:, :-1]

    def tables(self) -> np.ndarray:
        """Returns random log p (nats) of next tokens: float32 [V, prefixes]."""
        rng = np.random.default_rng((self.seed, 0))
        p = rng.dirichlet(np.full(self.vocabulary, self.concentration), self.prefixes)
        p = np.maximum(p, 1e-6)
        return np.log(p / p.sum(1, keepdims=True)).T.astype(np.float32)

    def log_tabled(self) -> np.ndarray:
        """Returns log p (nats) of every sequence under `tables`: float64 [S]."""
        log_p = self.tables()[self.rows.tokens[:, 1:], self.prefix]
        return (self.inside * log_p).sum(1, dtype=np.float64)

    def scattered(self, log_p: np.ndarray) -> np.ndarray:
        """Labels sequences at random, as successes until their total probability is about `rarity`.

        Args:
          log_p: [S] nats.

        Returns:
          float32 [S], 1 for a success.
        """
        p = np.exp(np.asarray(log_p, np.float64))
        label, mass = np.zeros(len(p), np.float32), 0.0
        for i in np.random.default_rng((self.seed, 1)).permutation(len(p)):
            if mass + p[i] <= 1.05 * self.rarity:
                label[i], mass = 1.0, mass + p[i]
            if mass >= 0.95 * self.rarity:
                break
        return label

    def keywords(self, log_p: np.ndarray) -> tuple[list[int], np.ndarray]:
        """Labels sequences by a rule that generalises: successes contain all tokens of a set.

        The set is that of 2 to 4 tokens whose success rate is nearest to `rarity`.

        Args:
          log_p: [S] nats.

        Returns:
          The set, and the labels: float32 [S], 1 for a success.

        Raises:
          InputError: sequences are too short, or tokens too few, for a set of two.
        """
        p, tokens = np.exp(np.asarray(log_p, np.float64)), self.rows.tokens[:, 1:]
        has = np.stack([(tokens == v).any(1) for v in range(self.vocabulary)])
        sets = [
            list(chosen)
            for size in range(2, min(4, self.length) + 1)
            for chosen in itertools.combinations(range(int(self.ends), self.vocabulary), size)
        ]
        if not sets:
            raise InputError(
                "keywords need at least two tokens and two places: raise vocabulary and length"
            )
        rates = np.array([p[has[chosen].all(0)].sum() for chosen in sets])
        best = sets[int(np.abs(np.log(np.maximum(rates, 1e-12) / self.rarity)).argmin())]
        return best, np.asarray(has[best].all(0), np.float32)


def prefix_numbers(tokens: Array, vocabulary: int) -> Array:
    """Numbers the prefixes that end with each token; the prompt alone is 0.

    Args:
      tokens: int32 [B, T], a NumPy or a JAX array.
      vocabulary: V.

    Returns:
      int32 [B, T], an array of the same kind.
    """
    numbers = [0 * tokens[:, :1]]
    for t in range(1, tokens.shape[1]):
        numbers.append(numbers[-1] * vocabulary + tokens[:, t : t + 1] + 1)
    return np.concatenate(numbers, 1) if isinstance(tokens, np.ndarray) else jnp.hstack(numbers)


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The solution in a world with a base p and an oracle C."""

    log_p: np.ndarray  # float64 [S], nats
    label: np.ndarray  # float32 [S], C
    rate: float  # R0
    q: np.ndarray  # float64 [S], q*
    value: np.ndarray  # float64 [S, T-1], R* of the prefix before each column's token
    after: np.ndarray  # float64 [S, T-1], R* after it; C at the end

    @classmethod
    def of(cls, world: World, log_p: np.ndarray, label: np.ndarray) -> "Optimum":
        """Computes it by enumeration, from log p [S] (nats) and label [S] of all sequences.

        Raises:
          InputError: all sequences with p > 0 succeed, or none.
        """
        p = np.exp(np.asarray(log_p, np.float64))
        value = np.zeros((len(p), world.length))
        for t in range(world.length):
            inside, number = world.inside[:, t], world.prefix[:, t]
            mass = np.bincount(number[inside], p[inside], number.max() + 1)
            good = np.bincount(number[inside], (p * label)[inside], number.max() + 1)
            value[inside, t] = (good / np.maximum(mass, 1e-300))[number[inside]]
        last = np.arange(world.length) == world.rows.length[:, None] - 2
        after = np.where(last, label[:, None], np.roll(value, -1, axis=1))
        rate = float((p * label).sum())
        if not 0 < rate < 1:
            raise InputError(
                f"in this world p satisfies the oracle with probability {rate:.3g}: give another "
                "rarity or seed"
            )
        return cls(np.log(p), label, rate, p * label / rate, value, after)

"""All sequences of a small world as rollouts, and the parameters of its floored optimum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.config.schema import Train
from dinado_jax.exact.compare import setting
from dinado_jax.exact.learn import Setting, judged
from dinado_jax.exact.world import Optimum, World
from dinado_jax.rollouts.arrays import Rollouts
from support import tiny

WORLD = World(vocabulary=3, length=3, rarity=0.15, ends=True)
COUNT = len(WORLD.rows)


@functools.cache
def case(variant: str = "merge") -> Setting:
    return setting("ends", WORLD, variant, 0)


def rollouts() -> Rollouts:
    """Every sequence once, as draws from the uniform distribution: their rate is R0."""
    index = np.arange(COUNT)
    rows = judged(WORLD, case().optimum, index, np.zeros(WORLD.inside.shape), 0.0, 0)
    uniform = np.full(COUNT, -np.log(COUNT), np.float32)
    return Rollouts(**{**vars(rows), "log_proposal": uniform})


def fresh(variant: str = "merge") -> dict:
    return case(variant).control.init(jax.random.key(0), case(variant).base_params, 0.3)


def at_optimum(margin: float, variant: str = "merge") -> dict:
    """Parameters of q proportional to p max(C, e^-margin), and the norm's logits of its V."""
    one = case(variant)
    floored = Optimum.of(WORLD, one.optimum.log_p, np.maximum(one.optimum.label, np.exp(-margin)))
    inside, r = WORLD.inside, np.zeros((WORLD.vocabulary, WORLD.prefixes))
    r[WORLD.rows.tokens[:, 1:][inside], WORLD.prefix[inside]] = np.log(floored.after[inside])
    value = np.full(WORLD.prefixes, 0.5)
    value[WORLD.prefix[inside]] = floored.value[inside]
    return {"direction": jnp.float32(r), "norm": jnp.float32(np.log(value) - np.log1p(-value))}


def noisy(scale: float, seed: int = 0) -> dict:
    return tiny.noisy(fresh(), scale, seed)


def training(objective: str, steps: int) -> Train:
    """Settings with which a table learns quickly."""
    return Train(
        objective=objective,
        steps=steps,
        warmup_direction=0,
        batch=32,
        learning_rate=0.1,
        warmup=0,
        clip=0.0,
        rounds=3,
        mixture=0.5,
    )


def log_policy(params: dict) -> np.ndarray:
    """log q of every token of every sequence, float64 [S, T-1] by hand; 0 after the end."""
    log_q = np.float64(WORLD.tables() + params["direction"])
    log_q -= np.log(np.exp(log_q).sum(0))
    return np.where(WORLD.inside, log_q[WORLD.rows.tokens[:, 1:], WORLD.prefix], 0)


def log_base() -> np.ndarray:
    """The same of log p."""
    table = np.float64(WORLD.tables())[WORLD.rows.tokens[:, 1:], WORLD.prefix]
    return np.where(WORLD.inside, table, 0)


def every_row(batch_at):
    """One row of each sequence, in the order of the world, from the ten steps that share draws."""
    parts = [batch_at(step) for step in range(10)]
    batch = jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
    _, first = np.unique(WORLD.index(np.asarray(batch.tokens)), return_index=True)
    assert len(first) == COUNT
    return jax.tree.map(lambda column: column[first], batch)

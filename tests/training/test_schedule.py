"""The optimiser that a section asks for, against AdamW written out: every setting changes it."""

import jax
import numpy as np
import pytest

from dinado_jax.config.schema import Optim
from dinado_jax.training.optimizer import optimizer, schedule

RATE = 0.03


def rate_at(step, steps, warmup, decay):
    """Of the update number `step`, from 0."""
    warmup = min(warmup, steps // 2)
    first = RATE / (warmup + 1)
    if step < warmup:
        return first + (RATE - first) * step / warmup
    if decay == "constant":
        return RATE
    done = min((step - warmup) / max(steps - warmup, 1), 1)
    return RATE / 10 + (RATE - RATE / 10) * (1 + np.cos(np.pi * done)) / 2


@pytest.mark.parametrize("decay", ["cosine", "constant"])
@pytest.mark.parametrize("steps, warmup", [(20, 5), (20, 0), (7, 3), (7, 50), (2, 1), (1, 1)])
def test_schedule(steps, warmup, decay):
    """Half of the steps at most are warm-up."""
    made = schedule(Optim(learning_rate=RATE, warmup=warmup, decay=decay), steps)
    found = [float(made(step)) for step in range(steps + 3)]
    wanted = [rate_at(step, steps, warmup, decay) for step in range(steps + 3)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


SHAPES = {"matrix": (3, 2), "vector": (4,), "number": ()}


def normal(shape, scale, *seed):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


GRADIENTS = [  # ever smaller, so that a clip cuts some of them
    {name: normal(shape, 3 / (1 + step), step, len(shape)) for name, shape in SHAPES.items()}
    for step in range(5)
]
START = {name: normal(shape, 2, 9) for name, shape in SHAPES.items()}


def adamw(settings, steps):
    """Parameters after every update, in float64."""
    params = {name: np.float64(value) for name, value in START.items()}
    mean = {name: 0.0 for name in params}
    square = {name: 0.0 for name in params}
    out = []
    for step, gradient in enumerate(GRADIENTS):
        norm = np.sqrt(sum((np.float64(g) ** 2).sum() for g in gradient.values()))
        scale = settings.clip / norm if settings.clip and norm > settings.clip else 1.0
        rate = rate_at(step, steps, settings.warmup, settings.decay)
        for name, g in gradient.items():
            g = np.float64(g) * scale
            mean[name] = 0.9 * mean[name] + 0.1 * g
            square[name] = settings.beta2 * square[name] + (1 - settings.beta2) * g**2
            step_mean = mean[name] / (1 - 0.9 ** (step + 1))
            step_square = square[name] / (1 - settings.beta2 ** (step + 1))
            update = step_mean / (np.sqrt(step_square) + 1e-8)
            if params[name].ndim > 1:
                update = update + settings.weight_decay * params[name]
            params[name] = params[name] - rate * update
        out.append({name: np.array(value) for name, value in params.items()})
    return out


CASES = {
    "defaults": {},
    "decay": {"decay": "constant"},
    "long warm-up": {"warmup": 3},
    "memory": {"beta2": 0.7},
    "weights decay": {"weight_decay": 0.4},
    "clipped": {"clip": 4.0},
    "never clipped": {"clip": 0.0},
    "rarely clipped": {"clip": 5.0},
}


@pytest.fixture(scope="module")
def updated(compiled_quickly):
    def run(settings, steps):
        transform = optimizer(settings, steps)

        def step(carry, gradient):
            params, state = carry
            updates, state = transform.update(gradient, state, params)
            params = jax.tree.map(lambda x, dx: x + dx, params, updates)
            return (params, state), params

        stacked = jax.tree.map(lambda *values: np.stack(values), *GRADIENTS)
        start = jax.tree.map(jax.numpy.asarray, START)
        return jax.jit(lambda: jax.lax.scan(step, (start, transform.init(start)), stacked)[1])()

    return run


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_adamw(updated, case):
    settings = Optim(**{"learning_rate": RATE, "warmup": 1, **CASES[case]})
    found, wanted = updated(settings, 5), adamw(settings, 5)
    for step, expected in enumerate(wanted):
        for name, value in expected.items():
            np.testing.assert_allclose(
                found[name][step], value, rtol=3e-5, err_msg=f"{step} {name}"
            )
    if case != "defaults":  # each case differs from the defaults by more than rounding
        plain = adamw(Optim(learning_rate=RATE, warmup=1), 5)[-1]
        assert max(np.abs(plain[n] - wanted[-1][n]).max() for n in SHAPES) > 1e-3

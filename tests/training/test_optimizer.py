import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dinado_jax.automata.progress import COUNT
from dinado_jax.config.schema import Train
from dinado_jax.controls.state import StateReader
from dinado_jax.training.optimizer import averaged, control_optimizer
from dinado_jax.training.step import TrainState, at_average, init_state


def descend(steps: int, window: int) -> tuple[TrainState, np.ndarray]:
    """Trains on noisy gradients of a parabola: the state, and all iterates [steps, 3]."""
    transform = averaged(optax.sgd(0.3), window)
    state, iterates = init_state({"x": jnp.array([3.0, -1.0, 0.0])}, transform), []
    for step in range(steps):
        x = state.trainable["x"]
        grads = {"x": x - 1 + jax.random.normal(jax.random.key(step), (3,))}
        updates, opt_state = transform.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        state = TrainState(state.step + 1, trainable, opt_state)
        iterates.append(np.asarray(trainable["x"]))
    return state, np.array(iterates)


@pytest.mark.parametrize("window", [1, 4, 30])
def test_the_average_is_the_mean_first_and_exponential_then(window):
    state, iterates = descend(20, window)
    expected = iterates[0]
    for count, x in enumerate(iterates[1:], 2):
        expected = expected + (x - expected) / min(count, window)
    np.testing.assert_allclose(at_average(state).trainable["x"], expected, rtol=1e-5)
    if window == 30:
        np.testing.assert_allclose(expected, iterates.mean(0), rtol=1e-5)
    if window == 1:
        np.testing.assert_array_equal(at_average(state).trainable["x"], iterates[-1])


def test_updates_are_those_of_the_optimiser_and_the_average_is_less_noisy():
    state, iterates = descend(200, 30)
    plain, _ = descend(200, 1)
    np.testing.assert_array_equal(state.trainable["x"], plain.trainable["x"])
    noise = np.square(iterates[50:] - 1).mean()
    assert np.square(np.asarray(at_average(state).trainable["x"]) - 1).mean() < noise / 2


def test_the_average_of_no_iterates_is_where_training_starts():
    start = init_state({"x": jnp.array([3.0, -1.0])}, averaged(optax.sgd(0.3), 5))
    np.testing.assert_array_equal(at_average(start).trainable["x"], [3.0, -1.0])


def test_training_goes_on_from_the_average():
    state, _ = descend(10, 5)
    average = at_average(state)
    np.testing.assert_array_equal(average.trainable["x"], state.opt_state.mean["x"])
    assert int(average.step) == 10 and int(average.opt_state.count) == 10


@pytest.mark.parametrize("rates", [(1e-2, 1e-2), (1e-3, 1e-2), (1e-2, 1e-3), (0.0, 1e-2)])
def test_what_reads_the_state_has_its_own_learning_rate(rates):
    rate, of_state = rates
    train = Train(learning_rate=rate, state_learning_rate=of_state, warmup=0, average=1)
    transform = control_optimizer(train)
    params = {name: jnp.ones((2, 2)) for name in ("direction", "state", "norm")}
    updates, _ = transform.update(params, transform.init(params), params)
    first = {name: float(-leaf[0, 0]) for name, leaf in updates.items()}
    assert first["direction"] == pytest.approx(1.1 * rate, rel=1e-3)  # with weight decay
    expected = 1.1 * of_state if rate else 0
    assert first["state"] == pytest.approx(expected, rel=1e-3)
    assert first["norm"] == pytest.approx(expected, rel=1e-3)


def test_the_table_of_rates_does_not_decay():
    transform = control_optimizer(Train(learning_rate=1e-2, state_learning_rate=1e-2, warmup=0))
    params = {"state": StateReader(4, 3).init(jax.random.key(0), np.ones((4, COUNT), np.float32))}
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transform.update(still, transform.init(params), params)
    moved = {name: bool(leaf.any()) for name, leaf in updates["state"].items()}
    assert moved.pop("read") and not any(moved.values())


@pytest.mark.parametrize("width, share", [(64, 1), (192, 1), (576, 1 / 3)])
def test_the_norm_of_a_wide_base_learns_in_smaller_steps(width, share):
    train = Train(learning_rate=1e-2, state_learning_rate=1e-2, warmup=0, weight_decay=0, average=1)
    transform = control_optimizer(train)
    norm = {"hidden": jnp.ones((width, 4 * width)), "out": jnp.ones(4 * width)}
    params = {"direction": jnp.ones((width, 4)), "state": jnp.ones((width, 2)), "norm": norm}
    updates, _ = transform.update(params, transform.init(params), params)
    first = jax.tree.map(lambda leaf: float(-leaf.ravel()[0]), updates)
    assert first["direction"] == first["state"] == pytest.approx(1e-2, rel=1e-3)
    assert first["norm"]["hidden"] == pytest.approx(share * 1e-2, rel=1e-3)
    assert first["norm"]["out"] == pytest.approx(share * 1e-2, rel=1e-3)

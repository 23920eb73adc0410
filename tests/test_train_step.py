"""The training step and loop: micro-batches, devices, donation, and stopping at a bad loss."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dinado_jax.checkpoint import Checkpoints
from dinado_jax.config import Delta, Optim, Run
from dinado_jax.objectives.control import Disentangled
from dinado_jax.objectives.sft import likelihood
from dinado_jax.objectives.terms import Term
from dinado_jax.optim import optimizer
from dinado_jax.progress import MetricsLog
from dinado_jax.train import Diverged, fit, make_step, split, start

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Plain gradient descent: where a gradient is zero but for rounding, Adam would blow the noise up.
SGD = optax.sgd(0.1)
FEW = Delta(rank=2, low_rank=(r"h_0/\w+/c_proj/kernel",), full=(r"ln_f/\w+",))
ROWS = 16


def likelihood_terms(params, _, batch):
    return likelihood(tiny.model(), params, batch)


def rows(**given):
    """Targets of 1 to 9 tokens, the short ones together: micro-batches differ much in tokens."""
    length = np.sort(np.resize(np.arange(3, 12), ROWS))
    return tiny.batch([2] * ROWS, length, **given)


def matching_batch():
    norm = rows(label=np.resize([1, 1, 0], ROWS), seed=1)
    return {
        "direction": rows(label=np.linspace(0, 1, ROWS), seed=2),
        "norm": {
            **norm,
            "shift": np.full(ROWS, 1.5, np.float32),
            "suffix": np.ones((ROWS, norm["tokens"].shape[1] - 1), np.float32),
        },
    }


def begin(trainable, transform=SGD):
    """A state of its own arrays: a step takes its state's away."""
    return start(jax.tree.map(jnp.array, trainable), transform)


def assert_moved(before, after):
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), before, after)
    assert max(map(float, jax.tree.leaves(moved))) > 1e-3


def test_micro_batches_make_the_same_step():
    step, trainable, batch = make_step(likelihood_terms, SGD), tiny.base_params(), rows()
    states, metrics = zip(*(step(begin(trainable), None, split(batch, n)) for n in (1, 2, 4)))
    assert_moved(trainable, states[0].trainable)
    for state, figures in zip(states[1:], metrics[1:]):
        chex.assert_trees_all_close(state.trainable, states[0].trainable, rtol=0, atol=1e-6)
        chex.assert_trees_all_close(figures, metrics[0], rtol=1e-5)
        assert state.step == 1


def test_eight_devices_make_the_same_step_as_one():
    step = make_step(Disentangled(tiny.control(FEW), 0.5).terms, SGD)
    trainable, batch = tiny.random_params(FEW), split(matching_batch(), 1)
    alone, figures = step(begin(trainable), tiny.base_params(), batch)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_row = NamedSharding(mesh, PartitionSpec(None, "batch"))
    state, frozen = jax.device_put((begin(trainable), tiny.base_params()), everywhere)
    sharded = jax.device_put(batch, by_row)
    assert {shard.data.shape[1] for shard in sharded["norm"]["tokens"].addressable_shards} == {2}
    together, shared_figures = step(state, frozen, sharded)
    assert_moved(trainable, together.trainable)
    chex.assert_trees_all_close(
        jax.device_get(together.trainable), alone.trainable, rtol=0, atol=1e-5
    )
    chex.assert_trees_all_close(jax.device_get(shared_figures), figures, rtol=1e-5)


# A problem without a model: the mean of (x - target)^2 over the rows that count.


def squares(trainable, offset, batch):
    error = (trainable["x"] - offset - batch["target"]) ** 2
    cubes = jnp.abs(trainable["x"]) ** 3
    return {
        "square": Term((batch["weight"] * error).sum(), batch["weight"].sum()),
        "cube": Term(cubes, jnp.float32(1), 0.25),
    }


def squares_batch(target=(1.0, 2.0, 3.0, 100.0), weight=(1.0, 1.0, 2.0, 0.0)):
    return {"target": np.float32(target), "weight": np.float32(weight)}


def squares_state(transform=SGD):
    return start({"x": jnp.float32(2.0)}, transform)


def test_a_step_by_hand():
    """mean (x - t)^2 by weight, + |x|^3 / 4, at x = 2: (1 + 0 + 2) / 4 + 8 / 4, slope -1/2 + 3."""
    offset = jnp.float32(0.0)
    state, metrics = make_step(squares, SGD)(squares_state(), offset, split(squares_batch(), 1))
    expected = {"square": 0.75, "cube": 8.0, "loss": 2.75, "grad_norm": 2.5}
    chex.assert_trees_all_close(metrics, jax.tree.map(jnp.float32, expected), rtol=1e-6)
    assert float(state.trainable["x"]) == pytest.approx(2.0 - 0.1 * 2.5)
    assert state.step == 1 and state.step.dtype == jnp.int32


def test_rows_that_all_count_for_nothing_move_nothing():
    def terms(trainable, offset, batch):
        return {"square": squares(trainable, offset, batch)["square"]}

    batch = split(squares_batch(weight=np.zeros(4)), 2)
    state, metrics = make_step(terms, SGD)(squares_state(), jnp.float32(0), batch)
    assert float(state.trainable["x"]) == 2.0 and float(metrics["loss"]) == 0.0


def test_the_state_is_donated_and_the_base_is_not():
    before, offset = squares_state(optax.adam(0.1)), jnp.float32(0)
    make_step(squares, optax.adam(0.1))(before, offset, split(squares_batch(), 1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert not offset.is_deleted()


def test_split_keeps_the_order_of_the_rows():
    batch = {"tokens": np.arange(24).reshape(6, 4), "length": np.arange(6)}
    out = split(batch, 3)
    chex.assert_shape(out["tokens"], (3, 2, 4))
    np.testing.assert_array_equal(out["length"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(out["tokens"].reshape(6, 4), batch["tokens"])


def test_the_loss_falls():
    """A toy likelihood: twenty steps on one batch of the optimiser the stages use."""

    transform = optimizer(Optim(learning_rate=1e-2, warmup=3), 20)
    step, state = make_step(likelihood_terms, transform), begin(tiny.base_params(), transform)
    batch, losses = split(rows(), 2), []
    for _ in range(20):
        state, metrics = step(state, None, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0]
    assert all(after < before for before, after in pairwise(losses[3:]))
    chex.assert_tree_all_finite(state)


# The loop


class Bench:
    """`fit` on squares, in a folder; the targets of one step can be spoilt."""

    def __init__(self, folder):
        self.folder = folder
        self.step = make_step(squares, SGD)

    def run(self, stop, *, spoilt=None, target=np.nan, log_every=1, save_every=2):
        def batch_at(index):
            # Every step has targets of its own: where a run resumes matters.
            targets = np.arange(4) + (target if index == spoilt else np.sin(index))
            return squares_batch(targets, np.ones(4))

        with Checkpoints(self.folder / "checkpoints") as checkpoints:
            state = checkpoints.restore(squares_state()) or squares_state()
            log = MetricsLog(self.folder / "log.jsonl", int(state.step))
            return fit(
                "toy",
                self.step,
                state,
                jnp.float32(0.0),
                batch_at,
                stop,
                accumulate=2,
                run=Run(log_every=log_every, save_every=save_every),
                checkpoints=checkpoints,
                log=log,
            )

    def saved(self):
        with Checkpoints(self.folder / "checkpoints") as checkpoints:
            return checkpoints.restore(squares_state())


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_resumed_run_ends_where_an_unbroken_one_does(bench, tmp_path):
    (tmp_path / "unbroken").mkdir()
    unbroken = Bench(tmp_path / "unbroken").run(9)
    assert bench.run(5).step == 5
    resumed = bench.run(9)
    chex.assert_trees_all_equal(resumed, unbroken)
    assert resumed.step == 9
    assert bench.run(9).step == 9  # nothing is left to do
    steps = [line for line in (bench.folder / "log.jsonl").read_text().splitlines() if line]
    assert len(steps) == 9


def test_what_is_saved_survives_the_steps_after_it(bench, tmp_path):
    """The state is donated to the next step while it is still being written."""
    (tmp_path / "other").mkdir()
    expected = Bench(tmp_path / "other").run(6)
    with pytest.raises(Diverged):
        bench.run(9, spoilt=6, save_every=2)
    chex.assert_trees_all_equal(bench.saved(), expected)


@pytest.mark.parametrize(
    ("spoilt", "target", "log_every", "save_every", "named", "kept"),
    [
        (4, np.nan, 1, 2, 5, 4),
        (4, np.inf, 1, 2, 5, 4),
        # Between two lines of the log a checkpoint is due: it must not be written either.
        (4, np.nan, 100, 2, 6, 4),
        (4, np.nan, 3, 2, 6, 4),
        (8, np.nan, 100, 4, 9, 8),
        (0, np.nan, 1, 2, 1, None),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(
    bench, spoilt, target, log_every, save_every, named, kept
):
    with pytest.raises(Diverged, match=rf"^toy: .*at step {named}; [^\n]*$"):
        bench.run(9, spoilt=spoilt, target=target, log_every=log_every, save_every=save_every)
    saved = bench.saved()
    if kept is None:
        assert saved is None
    else:
        chex.assert_tree_all_finite(saved)
        assert saved.step == kept


def test_a_gradient_that_is_no_number_stops_the_run(bench):
    """A finite loss beside it would let the poisoned state be saved."""

    def terms(trainable, offset, batch):
        root = jnp.sqrt(jnp.abs(trainable["x"] - trainable["x"]))
        return {"root": Term(root, jnp.float32(1)), **squares(trainable, offset, batch)}

    bench.step = make_step(terms, SGD)
    with pytest.raises(Diverged, match="at step 1;"):
        bench.run(2, log_every=1, save_every=1)
    assert bench.saved() is None

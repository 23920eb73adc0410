"""The training step and loop: sums by hand, donation, resuming, and stopping at a bad loss."""

import json
from itertools import pairwise

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import tiny

from dinado_jax.config.schema import Optim, Parallel, Run
from dinado_jax.data.batch import Array, Batch
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.objectives.sft import likelihood
from dinado_jax.objectives.terms import Term
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.loop import Diverged, Loop, Phase
from dinado_jax.training.optimizer import optimizer
from dinado_jax.training.step import init_state, make_step, split_micro_batches
from dinado_jax.utils.progress import MetricsLog

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SGD = optax.sgd(0.1)
PLAN = make_plan(Parallel(devices=1))


def likelihood_terms(params, _, batch):
    return likelihood(tiny.model(), None, params, None, batch)


def begin(trainable, transform=SGD):
    """A state of its own arrays: a step takes its state's away."""
    return init_state(jax.tree.map(jnp.array, trainable), transform)


# A problem without a model: the mean of (x - target)^2 over the rows that count.


@flax.struct.dataclass(kw_only=True)
class SquaresBatch(Batch):
    target: Array  # float32 [B]
    weight: Array  # float32 [B]


def squares(trainable, offset, batch):
    error = (trainable["x"] - offset - batch.target) ** 2
    cubes = jnp.abs(trainable["x"]) ** 3
    return {
        "square": Term((batch.weight * error).sum(), batch.weight.sum()),
        "cube": Term(cubes, jnp.float32(1), 0.25),
    }


def squares_batch(target=(1.0, 2.0, 3.0, 100.0), weight=(1.0, 1.0, 2.0, 0.0)):
    rows = tiny.batch([1] * 4, [2] * 4, width=2).replace(row=np.arange(4))
    return SquaresBatch(**vars(rows), target=np.float32(target), weight=np.float32(weight))


def squares_state(transform=SGD):
    return init_state({"x": jnp.float32(2.0)}, transform)


def test_a_step_by_hand():
    """mean (x - t)^2 by weight, + |x|^3 / 4, at x = 2: (1 + 0 + 2) / 4 + 8 / 4, slope -1/2 + 3."""
    offset = jnp.float32(0.0)
    state, metrics = make_step(squares, SGD)(
        squares_state(), offset, split_micro_batches(squares_batch(), 1)
    )
    expected = {"square": 0.75, "cube": 8.0, "loss": 2.75, "grad_norm": 2.5}
    chex.assert_trees_all_close(metrics, jax.tree.map(jnp.float32, expected), rtol=1e-6)
    assert float(state.trainable["x"]) == pytest.approx(2.0 - 0.1 * 2.5)
    assert state.step == 1 and state.step.dtype == jnp.int32


def test_only_the_ratios_of_weights_count():
    few, many = (
        make_step(squares, SGD)(squares_state(), jnp.float32(0), split_micro_batches(batch, 1))
        for batch in (
            squares_batch(weight=np.array([1.0, 1.0, 2.0, 0.0]) * scale) for scale in (0.01, 100)
        )
    )
    chex.assert_trees_all_close(few, many, rtol=1e-5)


def test_rows_that_all_count_for_nothing_move_nothing():
    def terms(trainable, offset, batch):
        return {"square": squares(trainable, offset, batch)["square"]}

    batch = split_micro_batches(squares_batch(weight=np.zeros(4)), 2)
    state, metrics = make_step(terms, SGD)(squares_state(), jnp.float32(0), batch)
    assert float(state.trainable["x"]) == 2.0 and float(metrics["loss"]) == 0.0


def test_the_state_is_donated_and_the_base_is_not():
    before, offset = squares_state(optax.adam(0.1)), jnp.float32(0)
    make_step(squares, optax.adam(0.1))(before, offset, split_micro_batches(squares_batch(), 1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert not offset.is_deleted()


def test_split_keeps_the_order_of_the_rows():
    batch = tiny.batch([1] * 6, [2, 3, 4, 5, 6, 7])
    out = split_micro_batches(batch, 3)
    chex.assert_shape(out.tokens, (3, 2, 12))
    np.testing.assert_array_equal(out.length, [[2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(out.tokens.reshape(6, 12), batch.tokens)


def test_the_loss_falls():
    """A toy likelihood: twenty steps on one batch of the optimiser the stages use."""

    transform = optimizer(Optim(learning_rate=1e-2, warmup=3), 20)
    step, state = make_step(likelihood_terms, transform), begin(tiny.base_params(), transform)
    rows = tiny.batch([2] * 16, np.resize(np.arange(3, 12), 16))
    batch, losses = split_micro_batches(rows, 2), []
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
            state = checkpoints.restore(PLAN.abstract(squares_state())) or squares_state()
            log = MetricsLog(self.folder / "log.jsonl", int(state.step))
            run = Run(log_every=log_every, save_every=save_every)
            loop = Loop(PLAN, 2, run, checkpoints, log)
            return loop.fit(Phase("toy", self.step, batch_at, 0, stop), state, jnp.float32(0.0))

    def saved(self):
        with Checkpoints(self.folder / "checkpoints") as checkpoints:
            return checkpoints.restore(PLAN.abstract(squares_state()))


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


def test_metrics_are_logged_every_few_steps_and_at_the_end(bench):
    bench.run(8, log_every=3, save_every=100)
    lines = (bench.folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6, 8]


def test_few_steps_wait_for_the_devices(bench):
    """A signal is heeded only once they are done: of a large model's, twenty would take minutes."""
    step, metrics, waiting = bench.step, [], []

    @jax.jit
    def slow(state, batch):
        matrix = jnp.full((700, 700), 1 / 700) + 0 * batch.tokens.sum()
        for _ in range(8):
            matrix = matrix @ matrix
        return jax.tree.map(lambda x: x + (0 * matrix[0, 0]).astype(x.dtype), state)

    def watched(state, frozen, batch):
        state, new = step(slow(state, batch), frozen, batch)
        waiting.append(sum(not loss.is_ready() for loss in metrics))
        metrics.append(new["loss"])
        return state, new

    bench.step = watched
    bench.run(12, log_every=100, save_every=100)
    assert 1 <= max(waiting) <= 3


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
        (4, np.nan, 100, 2, 5, 4),
        (4, np.nan, 3, 2, 5, 4),
        (8, np.nan, 100, 4, 9, 8),
        (0, np.nan, 1, 2, 1, None),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(
    bench, spoilt, target, log_every, save_every, named, kept
):
    with pytest.raises(Diverged, match=rf"^toy: .*at step {named}, on [^\n]*$") as caught:
        bench.run(9, spoilt=spoilt, target=target, log_every=log_every, save_every=save_every)
    saved = bench.saved()
    assert "rows [0, 1, 2, 3]" in str(caught.value)
    where = "no checkpoint before it" if kept is None else f"checkpoints/{kept}:"
    assert where in str(caught.value)
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
    with pytest.raises(Diverged, match="at step 1,"):
        bench.run(2, log_every=1, save_every=1)
    assert bench.saved() is None

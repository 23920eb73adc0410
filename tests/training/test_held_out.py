"""The end of a phase by the loss on held-out rows: by hand, resumed, and under every plan."""

import json

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import stops, tiny

from dinado_jax.config.schema import Parallel, Run
from dinado_jax.data.batch import Array, Batch
from dinado_jax.distributed import signals
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.objectives.terms import Term
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.loop import HeldOut, Loop, Phase
from dinado_jax.training.optimizer import averaged
from dinado_jax.training.step import (
    Span,
    init_state,
    make_evaluation,
    make_step,
    split_micro_batches,
)
from dinado_jax.utils.progress import MetricsLog

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PLAN = make_plan(Parallel(devices=1))
RATE, AVERAGE = 0.2, 4
TRANSFORM = averaged(optax.sgd(lambda count: RATE / (4 + count)), AVERAGE)


@flax.struct.dataclass(kw_only=True)
class Squares(Batch):
    """Of a problem without a model: the mean of (x - target)^2 over the rows by weight."""

    target: Array  # float32 [B]
    weight: Array  # float32 [B]


def squares(trainable, offset, batch):
    error = (trainable["x"] - offset - batch.target) ** 2
    return {"square": Term((batch.weight * error).sum(), batch.weight.sum())}


def rows(target, weight=None):
    count = len(target)
    batch = tiny.batch([1] * count, [2] * count, width=2).replace(row=np.arange(count))
    weight = np.ones(count) if weight is None else weight
    return Squares(**vars(batch), target=np.float32(target), weight=np.float32(weight))


def state(x=4.0):
    return init_state({"x": jnp.float32(x)}, TRANSFORM, evaluated=True)


class Bench:
    """Two phases in a folder: training pulls x from 4 towards 0, held-out rows towards `wanted`."""

    step = staticmethod(make_step(squares, TRANSFORM))
    evaluate = staticmethod(make_evaluation(squares, PLAN))

    def __init__(self, folder, wanted=3.3, stop=20):
        folder.mkdir(exist_ok=True)
        self.folder, self.wanted, self.stop = folder, wanted, stop

    def run(self):
        def batch_at(step):
            return rows(np.full(4, np.sin(step)))  # where a run resumes matters

        held = HeldOut(self.evaluate, rows(np.full(8, self.wanted)), pieces=2)
        with Checkpoints(self.folder / "checkpoints") as checkpoints:
            now = checkpoints.restore(PLAN.abstract(state())) or state()
            log = MetricsLog(self.folder / "log.jsonl", int(now.step))
            loop = Loop(PLAN, 2, Run(log_every=1, save_every=3), checkpoints, log)
            for begin, end in ((0, self.stop), (self.stop, self.stop + 5)):
                phase = Phase("toy", self.step, batch_at, begin, end, held)
                now = loop.fit(phase, now, jnp.float32(0))
            return now

    def log(self):
        lines = map(json.loads, (self.folder / "log.jsonl").read_text().splitlines())
        return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]


def by_hand(wanted, begin, stop, x, count, mean=None):
    """Returns the evaluations [step, loss] of a phase from x on, and its best step and average."""
    mean = x if mean is None else mean
    updates, found, best = begin, [], (begin, (mean - wanted) ** 2, mean)
    every = max(1, (stop - begin) // 10)
    for step in range(begin + 1, stop + 1):
        x -= RATE / (4 + updates) * 2 * (x - np.sin(step - 1))
        updates, count = updates + 1, count + 1
        share = 1 / min(count, AVERAGE)
        mean = (1 - share) * mean + share * x
        if (step - begin) % every == 0 or step == stop:
            found.append((step, (mean - wanted) ** 2))
            if found[-1][1] < best[1]:
                best = (step, found[-1][1], mean)
            if step - best[0] >= 3 * every:
                break
    return found, best, count


@pytest.mark.parametrize(
    "wanted, ends",
    [
        (3.3, 10),  # the average passes the target: best after 4 steps, three evaluations more
        (3.4, 8),  # in the second phase only the last evaluation is worse than the one before
        (5.0, 6),  # away from it at once: best where the phase began
        (0.0, 20),  # towards it to the end
    ],
)
def test_a_phase_ends_at_its_best_average(tmp_path, capsys, wanted, ends):
    bench = Bench(tmp_path, wanted)
    found = bench.run()
    first, best, count = by_hand(wanted, 0, 20, 4.0, 0)
    # The learning rate goes on as of step 20, from the best average.
    second, last, _ = by_hand(wanted, 20, 25, best[2], count)
    assert first[-1][0] == ends
    logged = [line for line in bench.log() if "held_out" in line]
    assert [line["step"] for line in logged] == [step for step, _ in first + second]
    losses = [line["held_out"] for line in logged]
    np.testing.assert_allclose(losses, [loss for _, loss in first + second], rtol=1e-4, atol=1e-6)
    assert logged[len(first) - 1]["best_step"] == best[0]
    assert found.step == 25 and found.best.step == last[0]
    for x in (found.trainable["x"], found.opt_state.mean["x"], found.best.params["x"]):
        assert float(x) == pytest.approx(last[2], rel=1e-5)
    assert optax.tree.get(found.opt_state.inner, "count") == 25  # of the learning rate
    said = f"toy: goes on with the average after {best[0]} of 20 steps, whose held-out loss "
    assert said in capsys.readouterr().err


def test_the_steps_of_a_phase_that_has_ended_are_not_done(tmp_path):
    bench = Bench(tmp_path)
    bench.run()
    steps = [line["step"] for line in bench.log() if "loss" in line]
    assert steps == [*range(1, 11), *range(21, 25)]
    assert max(int(path.name) for path in (tmp_path / "checkpoints").glob("*[0-9]")) == 25
    assert bench.run().step == 25  # nothing is left to do


def test_stopped_anywhere_and_continued_it_ends_as_in_one_go(tmp_path, monkeypatch):
    """Between two evaluations, whose average would be better, after the step which ends the first
    phase, and after the last of all.
    """
    whole = Bench(tmp_path / "whole", 3.4)
    wanted = whole.run()
    assert len([line for line in whole.log() if "loss" in line]) == 13
    for after in (3, 8, 13):
        bench = Bench(tmp_path / str(after), 3.4)
        with monkeypatch.context() as patch:
            stops.stop_when(patch, stops.asked(after))
            with pytest.raises(signals.Stopped):
                bench.run()
        chex.assert_trees_all_equal(bench.run(), wanted)
        assert bench.log() == whole.log(), after


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path):
    bench = Bench(tmp_path, np.nan)
    assert bench.run().step == 25
    assert {line["best_step"] for line in bench.log() if "best_step" in line} == {0, 20}
    assert not any("held_out" in line for line in bench.log())


def test_any_number_is_better_than_none():
    given = jnp.float32(0), jax.tree.map(np.int32, Span(0, 9, 1))
    batch = PLAN.shard_batch(split_micro_batches(rows(np.ones(4)), 2))
    evaluate = make_evaluation(squares, PLAN)
    begun, metrics = evaluate(state(np.nan), given, batch)
    assert metrics["best"] == np.inf
    later = begun.replace(step=begun.step + 1, opt_state=TRANSFORM.init({"x": jnp.float32(3)}))
    after, metrics = evaluate(later, given, batch)
    assert metrics["best"] == 4 and after.best.step == 1 and after.best.params["x"] == 3


@pytest.mark.parametrize(
    "settings",
    [Parallel(), Parallel(fsdp=4), Parallel(mode="shard_map"), Parallel(mode="pmap")],
    ids=str,
)
def test_the_loss_is_that_of_all_rows_by_weight_under_any_plan(settings):
    plan, rng = make_plan(settings), np.random.default_rng(0)
    target, weight = rng.normal(size=32), rng.random(32) * np.repeat([1, 0, 3, 1], 8)
    batch = plan.shard_batch(split_micro_batches(rows(target, weight), 2))
    evaluate, given = make_evaluation(squares, plan), jax.tree.map(np.int32, Span(0, 9, 1))
    placed = plan.shard(jax.device_get(state(0.5)))
    after, metrics = evaluate(placed, (plan.shard(jnp.float32(0.25)), given), batch)
    wanted = (weight * (0.25 - target) ** 2).sum() / weight.sum()
    assert float(metrics["held_out"]) == pytest.approx(wanted, rel=1e-5)
    assert float(after.best.loss) == pytest.approx(wanted, rel=1e-5) and int(after.step) == 0

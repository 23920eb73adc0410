"""Fisher scores against float64, on any devices, and rates by their ranks."""

import re

import jax
import numpy as np
import pytest
from support import by_hand, tiny, twenty_steps
from support.refusal import error_of

from dinado_jax.config.schema import Parallel
from dinado_jax.data.batch import rows_of
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import by_path, init_params
from dinado_jax.objectives.sft import likelihood
from dinado_jax.training.fisher import fisher_scores, rank_schedule

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ONE = make_plan(Parallel(devices=1))
GPT = GPT2(GPT2Config(vocab_size=tiny.VOCABULARY, n_positions=8, n_embd=4, n_layer=1, n_head=2))
ROWS = tiny.batch([1, 2, 1], [6, 4, 3], width=6)  # rows of different lengths
STEP = 1e-4  # of differences


def float64_scores(model, gradients):
    """By site, from gradients {path: [rows, ..]}."""
    means = {path: (np.float64(rows) ** 2).mean() for path, rows in gradients.items()}
    return {
        site: np.mean([mean for path, mean in means.items() if re.fullmatch(group, path)])
        for site, group in model.dropout_sites.items()
    }


def losses(params):
    """Mean nats per target of each row, in float64."""
    scores = by_hand.score(by_hand.Model.of_tree(params, 2)(ROWS.tokens)[1], ROWS)
    return -scores.sum(1) / by_hand.targets(ROWS).sum(1)


def test_scores_equal_central_differences_in_float64():
    params = jax.device_get(tiny.noisy(init_params(GPT, 0), 0.2))
    found = fisher_scores(GPT, params, ROWS, ONE)
    flat = by_path(jax.tree.map(np.float64, params))
    groups = "|".join(GPT.dropout_sites.values())
    gradients = {path: [] for path in flat if re.fullmatch(groups, path)}
    for path, slopes in gradients.items():
        for index in np.ndindex(flat[path].shape):
            ends = []
            for sign in (1, -1):
                flat[path][index] += sign * STEP
                ends.append(losses(by_hand_tree(flat)))
                flat[path][index] -= sign * STEP
            slopes.append((ends[0] - ends[1]) / (2 * STEP))
    wanted = float64_scores(GPT, gradients)
    assert list(found) == list(wanted) == list(GPT.dropout_sites)
    for site, score in wanted.items():
        assert found[site] == pytest.approx(score, rel=1e-5), site


def by_hand_tree(flat):
    tree = {}
    for path, value in flat.items():
        *outer, last = path.split("/")
        inner = tree
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return tree


@pytest.fixture(scope="module")
def llama(compiled_quickly):
    """A base, eleven rows that no number of devices divides, and their scores by a loop."""
    model = twenty_steps.LLAMA
    rows = rows_of(tiny.batch([2] * 11, np.resize(np.arange(4, 12), 11), width=12), np.arange(11))
    params = init_params(model, 1)

    @jax.jit
    def gradient(params, row):
        def loss(params):
            nll = likelihood(model, None, params, None, row)["nll"]
            return nll.sum / nll.weight

        return jax.grad(loss)(params)

    each = [by_path(gradient(params, rows_of(rows, np.array([i])))) for i in range(11)]
    gradients = {path: np.stack([one[path] for one in each]) for path in each[0]}
    return model, params, rows, float64_scores(model, gradients)


@pytest.mark.parametrize(
    "settings",
    [Parallel(devices=1), Parallel(fsdp=4), Parallel(mode="shard_map"), Parallel(mode="pmap")],
    ids=str,
)
def test_scores_of_a_llama_on_any_devices(llama, settings):
    model, params, rows, wanted = llama
    plan = make_plan(settings)
    found = fisher_scores(model, plan.shard(params), rows, plan)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert len(found) == 4 and min(found.values()) > 0


def test_rates_fall_linearly_with_the_rank():
    scores = {"a": 5.0, "b": 1e-9, "c": 7.0, "d": 5.5}
    assert rank_schedule(scores, 0.3) == pytest.approx({"a": 0.2, "b": 0.3, "c": 0.0, "d": 0.1})
    assert list(rank_schedule(scores, 0.3)) == list(scores)
    assert max(rank_schedule(dict(zip("abcdefg", range(7))), 0.1).values()) == 0.1
    assert rank_schedule({"a": 1.0, "b": 1.0}, 0.1) == {"a": 0.1, "b": 0.0}


def test_the_published_rates():
    """37 sites of BERT-base, in steps of 0.00275 from 0.099 to 0."""
    rates = list(rank_schedule({f"{i}": i**3 for i in range(37)}, 0.099).values())
    assert rates == pytest.approx([0.099 - 0.00275 * i for i in range(37)], abs=1e-12)
    assert rates[0] == 0.099 and rates[-1] == 0


def test_what_has_no_score_is_refused():
    params = jax.device_get(init_params(GPT, 0))
    for rows in (tiny.batch([], []), tiny.batch([3, 3], [3, 3])):
        assert "no row has any: give rows" in error_of(fisher_scores, GPT, params, rows, ONE)
    damaged = jax.tree.map(lambda x: x * np.nan, params)
    assert "are not finite" in error_of(fisher_scores, GPT, damaged, ROWS, ONE)

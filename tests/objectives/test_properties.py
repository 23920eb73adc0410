"""Which rollouts every objective draws, how often, and what they carry.

Weights, prompts' sizes and labels all differ, and there are references.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from support import by_hand, uneven, world

from dinado_jax.config.schema import Train
from dinado_jax.data.batch import batches_in
from dinado_jax.objectives.table import OBJECTIVES, phases

BLOCK = 10  # steps that share their draws: every row comes its due number of times
SEEDS = range(4)
seeds = pytest.mark.parametrize("seed", SEEDS)


def make(name, **train):
    """An objective by its name, or the warm-up of any."""
    settings = Train(**{"batch": 48, "margin": 2.5, "weight_clip": 0.8, **train})
    if name == "warm-up":
        return phases(dataclasses.replace(settings, warmup_direction=5))[0][1]
    return OBJECTIVES[name](settings)


def block(name, rows, weight, which="", seed=0, start=0, **train):
    """The batches of ten steps: a list of those of one half, or of the whole."""
    at = make(name, **train).batches(rows, np.float32(weight), seed)
    batches = [at(start + step) for step in range(BLOCK)]
    return [getattr(each, which) if which else each for each in batches]


def joined(parts, name):
    return np.concatenate([np.asarray(getattr(part, name)) for part in parts])


def assert_counts(row, weight):
    """Rows are drawn in proportion to their weights, to within one draw each."""
    found = np.bincount(row, minlength=len(weight))
    wanted = len(row) * np.float64(weight) / np.sum(weight)
    assert (found[np.asarray(weight) == 0] == 0).all()
    assert (np.abs(found - wanted) <= 1 + 1e-6).all(), (found, wanted)


def weights_of(rows, reference_weight=1.7, mode="importance"):
    return by_hand.importance(rows, mode, 0.8, reference_weight)


# Draws


@seeds
@pytest.mark.parametrize("reference_weight", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("name, which", [("matching", "direction"), ("warm-up", "")])
def test_successes_follow_q_star_of_each_prompt(seed, reference_weight, name, which):
    """Weight times label, every prompt with a success equally often."""
    rows = uneven.rollouts(seed)
    weight = weights_of(rows, reference_weight)
    parts = block(name, rows, weight, which)
    row = joined(parts, "row")
    assert len(row) == BLOCK * (24 if which else 48)
    assert_counts(row, by_hand.per_prompt(weight * rows.label, rows))
    assert (joined(parts, "label") == 1).all()
    if reference_weight:
        assert rows.reference[row].any()


def known(rows, reference_weight):
    """Samples count equally, a reference as its weight."""
    return np.where(rows.reference, reference_weight, 1.0)


@seeds
@pytest.mark.parametrize("reference_weight", [0.0, 3.0])
@pytest.mark.parametrize("name, which", [("regression", "direction"), ("consistency", "")])
def test_regression_draws_all_samples_equally(seed, reference_weight, name, which):
    rows = uneven.rollouts(seed)
    parts = block(name, rows, weights_of(rows, reference_weight), which)
    row = joined(parts, "row")
    assert_counts(row, known(rows, reference_weight))
    np.testing.assert_array_equal(joined(parts, "label"), rows.label[row])
    label = np.maximum(rows.label, np.exp(-2.5))
    target = rows.log_base + np.log(label / by_hand.rates(rows))
    np.testing.assert_allclose(joined(parts, "target"), target[row], rtol=1e-4)
    ratio = by_hand.optimal_ratios(rows, weights_of(rows, reference_weight))
    ratio /= np.maximum(known(rows, reference_weight), 1e-9)
    np.testing.assert_allclose(joined(parts, "optimal_ratio"), ratio[row], rtol=1e-4)
    proposal = np.where(rows.reference, np.inf, rows.log_proposal)
    np.testing.assert_allclose(joined(parts, "log_proposal"), proposal[row], rtol=1e-6)


@seeds
@pytest.mark.parametrize("reference_weight", [0.0, 3.0])
def test_variance_draws_groups_of_one_prompt(seed, reference_weight):
    """Successes and failures of every prompt with a success equally often."""
    rows = uneven.rollouts(seed)
    parts = block("variance", rows, weights_of(rows, reference_weight), "direction")
    row = joined(parts, "row")
    assert len(row) == BLOCK * 24
    prompts = rows.prompt_id[row].reshape(-1, 4)
    assert (prompts == prompts[:, :1]).all()
    known_weight = known(rows, reference_weight)
    share = by_hand.per_prompt(known_weight * rows.label, rows)
    some = np.array([share[rows.prompt_id == p].sum() > 0 for p in rows.prompt_id])
    share = share + by_hand.per_prompt(known_weight * (1 - rows.label) * some, rows)
    assert_counts(row[::4], share)
    found = np.bincount(row, minlength=len(rows))
    assert (found[share == 0] == 0).all() and (found[share > 0] > 0).all()
    np.testing.assert_array_equal(joined(parts, "label"), rows.label[row])
    target = rows.log_base + np.log(np.maximum(rows.label, np.exp(-2.5)))
    np.testing.assert_allclose(joined(parts, "target"), target[row], rtol=1e-5)


@seeds
def test_contrastive_compares_successes_with_samples_of_their_prompts(seed):
    """No reference is drawn: it has no proposal."""
    rows = uneven.rollouts(seed)
    weight = weights_of(rows, 3.0)
    at = make("contrastive", batch=64).batches(rows, np.float32(weight), seed)
    row = np.concatenate([at(step).direction.row for step in range(10)]).reshape(-1, 8)
    prompts = rows.prompt_id[row]
    assert (prompts == prompts[:, :1]).all()
    success = np.where(rows.reference, 0, weight * rows.label)
    assert_counts(row[:, 0], by_hand.per_prompt(success, rows))
    some = by_hand.per_prompt(success, rows) > 0
    known = ~rows.reference & np.isin(rows.prompt_id, rows.prompt_id[some])
    assert set(row[:, 1:].ravel()) == set(np.flatnonzero(known))


@seeds
def test_reinforce_draws_samples_alone(seed):
    """What a prompt's samples earned under their own proposals is the baseline."""
    rows = uneven.rollouts(seed)
    parts = block("reinforce", rows, weights_of(rows, 3.0), "direction")
    row = joined(parts, "row")
    assert_counts(row, ~rows.reference)
    earned = 2.5 * rows.label + rows.log_base - rows.log_proposal
    mean = np.array([np.nanmean(earned[rows.prompt_id == p]) for p in rows.prompt_id])
    level = 2.5 * rows.label + rows.log_base - mean
    np.testing.assert_allclose(joined(parts, "level"), level[row], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(joined(parts, "log_proposal"), rows.log_proposal[row])


@seeds
@pytest.mark.parametrize("reference_weight", [0.0, 3.0])
def test_ratio_draws_prompts_with_a_success(seed, reference_weight):
    rows = uneven.rollouts(seed)
    weight = weights_of(rows, reference_weight)
    parts = block("ratio", rows, weight, "direction")
    row, success = joined(parts, "row"), weight * rows.label
    some = np.array([success[rows.prompt_id == p].sum() > 0 for p in rows.prompt_id])
    assert_counts(row, some & (weight > 0))
    samples = np.array([(~rows.reference)[rows.prompt_id == p].sum() for p in rows.prompt_id])
    optimal = by_hand.per_prompt(success, rows) * samples
    np.testing.assert_allclose(joined(parts, "optimal_ratio"), optimal[row], rtol=1e-5)
    proposal = np.where(rows.reference, np.inf, rows.log_proposal)[row]
    np.testing.assert_array_equal(joined(parts, "log_proposal"), np.float32(proposal))


@seeds
@pytest.mark.parametrize("mode", ["importance", "none"])
def test_published_draws_all_rollouts_equally(seed, mode):
    """References among them, whatever their weight."""
    rows = uneven.rollouts(seed)
    parts = block("published", rows, weights_of(rows, 0.0), weights=mode)
    row = joined(parts, "row")
    assert len(row) == BLOCK * 48
    assert_counts(row, np.ones(len(rows)))
    np.testing.assert_array_equal(joined(parts, "label"), rows.label[row])
    suffix = by_hand.suffixes(rows, mode)
    for part in parts:
        assert_suffixes(rows, suffix, part)


def assert_suffixes(rows, suffix, part):
    """Those of the rows of a batch, in the columns that predict targets."""
    assert part.suffix.shape == (len(part.row), part.tokens.shape[1] - 1)
    inside = by_hand.targets(part)
    wanted = suffix[part.row, : part.tokens.shape[1] - 1]
    np.testing.assert_allclose(part.suffix[inside], wanted[inside], rtol=1e-4)


NORMS = [(name, "norm") for name in ("matching", "regression", "ratio")] + [("prefixes", "")]
norms = pytest.mark.parametrize("name, which", NORMS)


@seeds
@norms
@pytest.mark.parametrize("mode, reference_weight", [("importance", 3.0), ("none", 0.0)])
def test_the_norm_sees_as_many_successes_as_failures(seed, name, which, mode, reference_weight):
    """Soft labels count as both in part; the log-odds that this adds are those of samples alone."""
    rows = uneven.rollouts(seed)
    weight = weights_of(rows, reference_weight, mode)
    parts = block(name, rows, weight, which, weights=mode, bellman=0.3)
    count = 24 if which else 48
    of_each = known(rows, reference_weight)
    suffix, rate = by_hand.suffixes(rows, mode), by_hand.rates(rows, shrinkage=0)
    sampled = rows.label[~rows.reference]
    shift = np.log((1 - sampled).sum() / sampled.sum())
    assert abs(shift) > 0.1
    for part in parts:
        assert len(part.row) == count
        np.testing.assert_array_equal(part.label, np.repeat([1, 0], count // 2))
        np.testing.assert_allclose(part.shift, np.full(count, shift), rtol=1e-5)
        np.testing.assert_allclose(part.rate, rate[part.row], rtol=1e-5)
        np.testing.assert_array_equal(part.bellman, np.full(count, np.float32(0.3)))
        assert_suffixes(rows, suffix, part)
    row = np.array([part.row for part in parts])
    assert_counts(row[:, : count // 2].ravel(), of_each * rows.label)
    assert_counts(row[:, count // 2 :].ravel(), of_each * (1 - rows.label))


@seeds
@norms
def test_unbalanced_the_norm_sees_samples_as_they_are(seed, name, which):
    rows = uneven.rollouts(seed)
    parts = block(name, rows, weights_of(rows), which, balance=False)
    row = joined(parts, "row")
    assert_counts(row, ~rows.reference)
    np.testing.assert_array_equal(joined(parts, "label"), rows.label[row])
    assert not joined(parts, "shift").any()


@seeds
@pytest.mark.parametrize("name", [*OBJECTIVES, "warm-up"])
def test_rows_carry_their_own_tokens(seed, name):
    rows = uneven.rollouts(seed)
    for batch in block(name, rows, weights_of(rows)):
        parts = batches_in(batch)
        assert sum(len(part.row) for part in parts) == 48
        for part in parts:
            width = part.tokens.shape[1]
            assert part.length.max() <= width
            np.testing.assert_array_equal(part.tokens, rows.tokens[part.row, :width])
            np.testing.assert_array_equal(part.length, rows.length[part.row])
            np.testing.assert_array_equal(part.prompt_length, rows.prompt_length[part.row])


def offset(parts, count):
    """The random offset in [0, 1) of a block's draws from rows of equal weights."""
    return np.min(parts) * np.size(parts) / count


@pytest.mark.parametrize("name", ["regression", "matching", "ratio", "prefixes"])
def test_kinds_of_draws_have_streams_of_their_own(name):
    """Rows for the direction, successes and failures for the norm."""
    few, count = uneven.rollouts(0, references=0), 4000
    names = [field.name for field in dataclasses.fields(few)]
    columns = {n: getattr(few, n) for n in names if getattr(few, n) is not None}
    rows = dataclasses.replace(
        few, **{n: np.resize(x, (count, *x.shape[1:])) for n, x in columns.items()}
    )
    half = np.full(count, 0.5, np.float32)
    rows = dataclasses.replace(
        rows, label=half, log_proposal=rows.log_base, prompt_id=np.zeros(count, np.int32)
    )
    offsets = []
    for start in range(0, 100, BLOCK):
        batches = block(name, rows, np.ones(count), start=start, batch=8)
        norm = np.array([getattr(each, "norm", each).row for each in batches])
        streams = np.split(norm, 2, axis=1)
        if name != "prefixes":
            streams.append(np.array([each.direction.row for each in batches]))
        offsets.append([offset(stream, count) for stream in streams])
    for one, other in itertools.combinations(np.transpose(offsets), 2):
        assert (np.abs(one - other) > 0.03).sum() > len(offsets) / 2


@pytest.mark.parametrize("name", [*OBJECTIVES, "warm-up"])
def test_draws_depend_on_the_seed_and_on_the_step(name):
    rows = uneven.rollouts(1, references=3)  # 19 rows, which divide no count

    def drawn(seed, start):
        batches = block(name, rows, weights_of(rows), seed=seed, start=start)
        parts = [b if hasattr(b, "row") else [*vars(b).values()][-1] for b in batches]
        return [part.row.tolist() for part in parts]

    assert drawn(0, 0) == drawn(0, 0)
    assert len({str(drawn(seed, 0)) for seed in range(0, 60, 10)}) > 3
    assert len({str(drawn(0, start)) for start in range(0, 60, 10)}) > 3


@pytest.mark.parametrize("name", ["published", "matching", "prefixes", "consistency"])
def test_lambda_begins_at_its_step(name):
    rows = uneven.rollouts(2)
    at = make(name, bellman=0.7, bellman_start=3).batches(rows, np.float32(weights_of(rows)), 0)
    batches = [at(step) for step in range(6)]
    found = [(getattr(each, "norm", each)).bellman for each in batches]
    assert [float(each[0]) for each in found] == pytest.approx([0, 0, 0, 0.7, 0.7, 0.7])
    assert all((each == each[0]).all() for each in found)


# Phases


def test_phases_are_the_warm_up_and_the_objective():
    for name in OBJECTIVES:
        train = Train(objective=name, steps=9, warmup_direction=4)
        (first, warmup), (last, objective) = phases(train)
        assert (first, last) == (4, 9)
        assert type(objective) is type(OBJECTIVES[name](train)) is not type(warmup)
        assert warmup.parts == 1
        parts = {"published": 1, "prefixes": 1, "consistency": 1, "variance": 8, "contrastive": 16}
        assert objective.parts == parts.get(name, 2)


# Terms

WIDTH = world.WIDTH


def batch_of(name, **train):
    """A batch of rows of the enumerable world, unequal in every respect."""
    rng = np.random.default_rng(3)
    rows = uneven.rollouts(3, hard=True)
    length = np.minimum(rows.length, rng.integers(5, WIDTH + 1, len(rows))).astype(np.int32)
    tokens = rng.integers(1, world.V, (len(rows), WIDTH)).astype(np.int32)
    rows = dataclasses.replace(
        rows,
        tokens=tokens,
        length=length,
        prompt_length=rng.integers(1, length - 2).astype(np.int32),
        log_prefix=rows.log_prefix[:, : WIDTH - 1],
    )
    objective = make(name, batch=24, **train)
    return objective, objective.batches(rows, np.float32(weights_of(rows)), 0)(1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def terms_of(objective, control, params, batch):
    found = objective.terms(control, params, world.base_params(), batch)
    return {name: term.sum / term.weight for name, term in found.items()}


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize(
    "name, bent", [("regression", False), ("warm-up", False), ("matching", True)]
)
def test_the_direction_is_learned_as_the_projected_form_has_it_in_matching_alone(name, bent):
    """Regression and warm-up hold it unbent."""
    objective, batch = batch_of(name)
    params = world.params("projected-merge")
    params["norm"] = {**params["norm"], "out_bias": np.float32(3)}  # R comes close to 1
    found = [
        float(terms_of(objective, world.control(kind), params, batch)["direction"])
        for kind in ("projected-merge", "clamped-merge")
    ]
    assert (abs(found[0] - found[1]) > 1e-3) == bent
    if not bent:
        assert found[0] == pytest.approx(found[1], rel=1e-6)


READS = {
    # merge, and a clamped merge, score their direction without the base
    "merge": {"matching": ("norm",), "published": ("",), "prefixes": ("",), "warm-up": ()},
    "clamped-merge": {"ratio": ("norm",), "published": ("",), "prefixes": ("",), "warm-up": ()},
    "projected-merge": {"regression": ("direction", "norm"), "warm-up": ("",)},
    "nado": {"regression": ("direction", "norm"), "published": ("",), "warm-up": ("",)},
    "soft-small": {"ratio": ("direction", "norm"), "prefixes": ("",), "warm-up": ("",)},
}


@pytest.mark.parametrize("kind", READS)
def test_which_parts_of_a_batch_need_the_base_s_states(kind):
    for name, wanted in READS[kind].items():
        assert make(name).reads_states(world.control(kind)) == wanted, name

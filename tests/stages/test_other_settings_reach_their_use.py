"""Runs of the other objectives, forms and ways of sampling, followed from file to file.

As in test_settings_reach_their_use.py; of a few steps each the last is computed by hand from the
one before.
"""

import shutil

import jax
import numpy as np
import pytest
from support import by_hand, word_run

from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES

SEED, EOS = 3, 0


@pytest.fixture(scope="module", autouse=True)
def compiled_once(compiled_quickly):
    yield


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return word_run.finished(tmp_path_factory)


def made(words, path, *overrides):
    """The files of a run that goes on with stage train where the one in `words` has rollouts."""
    for stage in STAGES[:2]:
        shutil.copytree(words / "run" / stage, path / stage)
    config = word_run.config(words / "data", *overrides)
    run_stages(config, ("train",), path)
    return word_run.Files(path, config)


def weight_of(run, rows):
    train = run.config.train
    return by_hand.importance(rows, train.weights, train.weight_clip, train.reference_weight)


def last_batch(run, rows):
    """The last step's batch of the objective; only its numbers of rows are to be read."""
    objective = OBJECTIVES[run.config.train.objective](run.config.train)
    rollouts = Rollouts(**vars(rows))
    return objective.batches(rollouts, np.float32(weight_of(run, rows)), SEED)(
        run.config.train.steps - 1
    )


def shift_of(rows):
    """Log-odds that a batch balanced by label has beyond the samples."""
    label = rows.label[~np.isnan(rows.log_proposal)]
    return np.log((1 - label).sum() / label.sum())


def assert_losses(run, losses):
    """Those of the last step, and the sum of them."""
    steps = run.config.train.steps
    wanted, line = losses(run.state(steps - 1)["trainable"]), run.log[-1]
    assert line["step"] == steps == len(run.log)
    logged = set(line) - {"step", "stage", "tokens_per_s", "loss", "grad_norm"}
    assert set(wanted) == logged
    for name, value in wanted.items():
        assert line[name] == pytest.approx(value, rel=2e-4, abs=2e-6), name
    weights = {name: 1.0 for name in wanted}
    if "bellman" in weights:
        weights["bellman"] = run.config.train.bellman
    total = sum(weights[name] * wanted[name] for name in wanted)
    assert line["loss"] == pytest.approx(total, rel=2e-4)
    return weights


def assert_gradient(run, losses, moved_by):
    """Of the last step, by finite differences of the losses by hand.

    moved_by: {"direction" or "norm": the losses that move it, by their weights}.
    """
    settings, norm = run.config.train, run.log[-1]["grad_norm"]
    before, after = run.state(settings.steps - 1), run.state(settings.steps)
    by_hand.assert_update(before, after, settings, settings.steps - 1, settings.steps)
    scale = max(1, norm / settings.clip) if settings.clip else 1
    gradients = by_hand.gradient_between(before, after)
    assert by_hand.tree_norm(gradients) * scale == pytest.approx(norm, rel=1e-3)
    params, rng = jax.tree.map(np.float64, before["trainable"]), np.random.default_rng(0)
    for moved, weights in moved_by.items():
        leaves, structure = jax.tree.flatten(gradients[moved])
        leaves = [leaf * scale for leaf in leaves]
        size = by_hand.tree_norm(leaves)
        assert size > 1e-3
        for _ in range(2):
            tangent = [1e-5 * (g / size + rng.normal(0, 0.05, np.shape(g))) for g in leaves]
            slope = sum((g * dx).sum() for g, dx in zip(leaves, tangent))
            either = []
            for sign in (1, -1):
                at = [x + sign * dx for x, dx in zip(jax.tree.leaves(params[moved]), tangent)]
                at = {**params, moved: jax.tree.unflatten(structure, at)}
                found = losses(at)
                either.append(sum(weight * found[name] for name, weight in weights.items()))
            assert (either[0] - either[1]) / 2 == pytest.approx(slope, rel=5e-3), moved


# Ratio: what the norm learns moves the direction too; rounds of the base alone; states from disk.


@pytest.fixture(scope="module")
def ratio(words, tmp_path_factory):
    return made(
        words,
        tmp_path_factory.mktemp("ratio") / "run",
        "train.objective=ratio",
        "train.margin=6",
        "train.anchor=0.3",
        "train.bound=0.3",
        "train.detach=false",
        "train.balance=false",
        "train.base_states=float32",
        "train.warmup_direction=0",
        "train.mixture=1.0",
        "train.rounds=2",
        "train.refresh_prompts=2",
        "train.refresh_samples=3",
        "train.bellman_start=0",
        "train.bellman=0.4",
        "train.steps=2",
        "train.batch=16",
        "train.accumulate=1",
        "run.save_every=1",
    )


def test_a_round_of_the_base_alone(ratio):
    """Draws of p: their proposal is the base."""
    (_, rows), base = ratio.rounds, ratio.base
    np.testing.assert_array_equal(rows.prompt_id, [6, 6, 6, 7, 7, 7])
    uniform = by_hand.uniforms(SEED, [6, 7], 3, 6, fold=1)
    drawn = by_hand.sample(base.next, by_hand.begun(rows), uniform, 6, EOS)
    by_hand.assert_samples(rows, drawn, EOS)
    np.testing.assert_allclose(rows.log_proposal, rows.log_base, rtol=0, atol=1e-4)
    assert not list((ratio.path / "train").glob("base_states*"))


def test_losses_and_gradient_of_ratio(ratio):
    rows = by_hand.joined(ratio.rounds)
    batch, weight = last_batch(ratio, rows), weight_of(ratio, rows)
    sampled = ~np.isnan(rows.log_proposal)
    samples = np.array([sampled[rows.prompt_id == p].sum() for p in rows.prompt_id])
    optimal = by_hand.per_prompt(weight * rows.label, rows) * samples
    suffix, rate = by_hand.suffixes(rows, "importance"), by_hand.rates(rows, shrinkage=0)
    one, other = batch.direction.row, batch.norm.row
    assert len(one) == len(other) == 8
    label = rows.label[other]

    def losses(params):
        control = ratio.control(params)
        log_q = by_hand.values(control, by_hand.part(rows, one)).log_q
        direction = by_hand.ratio_losses(log_q, rows.log_proposal[one], optimal[one]).mean()
        found = by_hand.values(control, by_hand.part(rows, other))
        return {
            "direction": direction,
            **by_hand.norm_terms(found, label, suffix[other], rate[other], 0.0),
        }

    weights = assert_losses(ratio, losses)
    norm = {name: weight for name, weight in weights.items() if name != "direction"}
    assert_gradient(ratio, losses, {"direction": weights, "norm": norm})


# Published: all rollouts equally, R of whole rows and its consistency.


@pytest.fixture(scope="module")
def published(words, tmp_path_factory):
    return made(
        words,
        tmp_path_factory.mktemp("published") / "run",
        "train.objective=published",
        "train.warmup_direction=0",
        "train.mixture=0",
        "train.weight_clip=0.98",
        "train.reference_weight=0",
        "train.rounds=1",
        "train.refresh_prompts=1000",
        "train.refresh_samples=8",
        "train.margin=6",
        "train.anchor=0.3",
        "train.bound=0.3",
        "train.bellman_start=1",
        "train.bellman=0.7",
        "train.steps=3",
        "train.batch=9",
        "train.clip=0",
        "train.decay=constant",
        "run.save_every=1",
    )


def test_losses_and_gradient_of_published(published):
    rows = published.rounds[0]
    chosen = last_batch(published, by_hand.part(rows, slice(None))).row
    assert len(chosen) == 9
    some = by_hand.part(rows, chosen)

    def losses(params):
        found = by_hand.values(published.control(params), some)
        ones = np.ones(found.inside.shape)
        norm = by_hand.norm_terms(found, some.label, ones, some.label, 0.0)
        total, _ = by_hand.bellman(found)
        return {"terminal": norm["terminal"], "bellman": total / 9}

    weights = assert_losses(published, losses)
    assert_gradient(published, losses, {"direction": weights, "norm": weights})
    # Lambda counts from the second step on. (Before it R may be all ties: the last token of a row
    # is the first of the vocabulary.)
    first = published.log[0]
    assert first["loss"] == first["terminal"]


# Prefixes: labels after every token, through a projected R.


@pytest.fixture(scope="module")
def prefixes(words, tmp_path_factory):
    return made(
        words,
        tmp_path_factory.mktemp("prefixes") / "run",
        "train.objective=prefixes",
        "control.kind=hard",
        "control.form=projected",
        "train.weights=none",
        "train.weight_clip=0.98",
        "train.warmup_direction=0",
        "train.mixture=0",
        "train.rounds=1",
        "train.refresh_prompts=1000",
        "train.refresh_samples=8",
        "train.margin=6",
        "train.anchor=0.3",
        "train.bound=0.3",
        "train.bellman=1",
        "train.bellman_start=0",
        "train.steps=2",
        "train.batch=16",
        "train.accumulate=1",
        "train.learning_rate=0.1",
        "run.save_every=1",
    )


def test_losses_and_gradient_of_prefixes(prefixes):
    rows = prefixes.rounds[0]
    chosen, shift = last_batch(prefixes, by_hand.part(rows, slice(None))).row, shift_of(rows)
    some, label = by_hand.part(rows, chosen), np.repeat([1.0, 0.0], 8)
    np.testing.assert_array_equal(some.label, label)

    def losses(params):
        found = by_hand.values(prefixes.control(params, "projected"), some)
        entropy = by_hand.cross_entropy(by_hand.logit(found.after), label[:, None], shift)
        return {"value": entropy[found.inside].mean()}

    weights = assert_losses(prefixes, losses)
    assert_gradient(prefixes, losses, {"direction": weights, "norm": weights})


# Truncated rollouts of an oracle with soft labels that fails now and then, a clamped hard control
# that learns likelihoods of successes and rates of prompts, and greedy decoding of a prompt file.


@pytest.fixture(scope="module")
def truncated(tmp_path_factory):
    return word_run.Files(*word_run.truncated(tmp_path_factory))


def test_truncated_rollouts(truncated):
    """Temperature, then the twelve likeliest, then a nucleus; rows that the oracle fails on are
    left out, and counted."""
    rows, base = truncated.rounds[0], truncated.base
    asked = truncated.codec.prompts(list(truncated.prompts_of(rows).values()))
    assert len(asked) == 5 and not rows.reference.any()
    uniform = by_hand.uniforms(SEED, range(5), 4, 5)
    every = [prompt for prompt in asked for _ in range(4)]
    method = {"temperature": 0.8, "top_k": 12, "top_p": 0.9}
    drawn = by_hand.sample(base.next, every, uniform, 5, EOS, **method)
    texts = truncated.codec.decode([each.tokens for each in drawn])
    kept = [i for i, text in enumerate(texts) if not word_run.refuses(text)]
    assert 0 < len(kept) < 20
    drawn = [drawn[i] for i in kept]
    by_hand.assert_samples(rows, drawn, EOS)
    np.testing.assert_array_equal(rows.prompt_id, np.repeat(np.arange(5), 4)[kept])
    np.testing.assert_allclose(rows.log_proposal, [d.log_prob for d in drawn], rtol=0, atol=1e-4)
    under_base = by_hand.score(base(rows.tokens)[1], rows)
    np.testing.assert_allclose(rows.log_base, under_base.sum(1), rtol=0, atol=1e-4)
    assert np.abs(rows.log_base - rows.log_proposal).min() > 1e-3
    for i, each in enumerate(drawn):
        start = rows.prompt_length[i] - 1
        ratio = under_base[i, start : start + len(each.tokens)] - each.prefix
        before = rows.log_prefix[i, start : start + len(ratio)]
        np.testing.assert_allclose(before, np.cumsum(ratio) - ratio, rtol=0, atol=1e-4)
    label = word_run.by_number_of_words(None, truncated.texts_of(rows))
    np.testing.assert_array_equal(rows.label, np.float32(label))
    assert {0.0, 0.25, 1.0} == set(label)
    stored = truncated.figures("rollout")
    assert stored["oracle_failures"] == 20 - len(kept) and stored["samples"] == len(kept)
    assert stored["successes"] == (rows.label > 0.5).sum()
    weight = np.exp(np.float64(rows.log_base - rows.log_proposal))
    rate = (weight * rows.label).sum() / weight.sum()
    assert stored["success_rate"] == pytest.approx(rate, rel=1e-4)
    assert "truncated base" in stored["target"] and "references" not in stored
    assert truncated.figures("train")["round_0"]["oracle_failures"] == 20 - len(kept)


def test_rates_begin_at_a_half_with_a_bias_of_zero(truncated):
    assert truncated.log[0]["rate"] == pytest.approx(np.log(2), rel=1e-5)


def test_losses_and_gradient_of_matching_under_a_hard_control(truncated):
    rows = truncated.rounds[0]
    batch = last_batch(truncated, by_hand.part(rows, slice(None)))
    one, other = batch.direction.row, batch.norm.row
    assert len(one) == len(other) == 4 and (rows.label[one] > 0).all()
    rates, shift = by_hand.rates(rows, shrinkage=0), shift_of(rows)
    label = np.repeat([1.0, 0.0], 2)
    assert abs(shift) > 0.3 and len(np.unique(rates[other])) > 1

    def losses(params):
        control = truncated.control(params, "clamped")
        log_q = by_hand.values(control, by_hand.part(rows, one)).log_q
        found = by_hand.values(control, by_hand.part(rows, other))
        rate = by_hand.rate_term(found, rates[other], label, shift)
        return {"direction": -log_q.mean(), "rate": rate}

    assert_losses(truncated, losses)
    assert_gradient(truncated, losses, {"direction": {"direction": 1}, "norm": {"rate": 1}})


@pytest.mark.parametrize("name", ["base", "control"])
def test_greedy_continuations_of_a_prompt_file(truncated, name):
    lines = word_run.read_lines(truncated.path / "generate" / f"{name}.jsonl")
    final = by_hand.load_state(truncated.path / "train" / "control" / "2")
    model = truncated.base if name == "base" else truncated.control(final).q
    asked = np.repeat(["bee dog =", "fox =", "cow ant =", "ant dog ="], 2).tolist()
    ids = truncated.codec.prompts(asked)
    drawn = by_hand.sample(model.next, ids, np.zeros((8, 4)), 4, EOS, temperature=0)
    texts = truncated.codec.decode([each.tokens for each in drawn])
    kept = [i for i, text in enumerate(texts) if not word_run.refuses(text)]
    assert [line["prompt"] for line in lines] == [asked[i] for i in kept]
    assert [line["text"] for line in lines] == [texts[i] for i in kept]
    assert [line["prompt_id"] for line in lines] == [i // 2 for i in kept]
    assert all(line["log_prob"] == 0 for line in lines)
    failures = truncated.figures("generate")[f"{name}_oracle_failures"]
    assert failures == 8 - len(kept)

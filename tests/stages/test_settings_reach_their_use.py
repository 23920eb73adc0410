"""One run of settings that all differ, followed from file to file.

What each stage wrote is computed once more from what it read, by `support.by_hand`. A setting that
is lost on its way, or taken for another, gives other numbers.
"""

import json
import types

import jax
import numpy as np
import pytest
from support import by_hand, word_run
from support.word_run import lexical, read_examples, read_lines

from dinado_jax.data.batching import Epochs
from dinado_jax.data.sequences import sequences
from dinado_jax.evaluation.metrics import kl_floor
from dinado_jax.objectives.table import OBJECTIVES, phases
from dinado_jax.rollouts.arrays import Rollouts

SEED, HEADS, EOS = 3, 3, 0
STEP = 4  # of train: the last one, and all of round 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = word_run.finished(tmp_path_factory)
    data = folder / "data"
    run = word_run.Files(folder / "run", word_run.config(data))
    run.data = data
    run.before, run.after = run.state(STEP - 1), run.state(STEP)
    run.rows = by_hand.joined(run.rounds)
    run.train = read_examples(data / "train.jsonl")
    return run


# Stage sft


def test_sizes_of_a_new_base(run):
    config = json.loads((run.path / "sft" / "base" / "config.json").read_text())
    sizes = {name: config[name] for name in ("n_positions", "n_embd", "n_layer", "n_head")}
    assert sizes == {"n_positions": 20, "n_embd": 12, "n_layer": 1, "n_head": 3}
    assert config["vocab_size"] == len(run.codec.tokenizer) == 281
    shapes = {name: weight.shape for name, weight in run.base.weights.items()}
    assert shapes["wte.weight"] == (281, 12) and shapes["wpe.weight"] == (20, 12)
    assert sum(name.endswith("c_attn.weight") for name in shapes) == 1
    count = sum(weight.size for weight in run.base.weights.values())
    assert run.figures("sft")["parameters"] == count


def pairs(run, examples):
    """Prompts and targets that fit into sft.max_length tokens, as rows."""
    flat = [(prompt, text) for prompt, texts in examples for text in texts]
    prompts = run.codec.prompts([prompt for prompt, _ in flat])
    targets = run.codec.targets([text for _, text in flat])
    kept = [i for i, (p, t) in enumerate(zip(prompts, targets)) if len(p) + len(t) <= 10]
    assert 10 < len(kept) < len(flat)
    return sequences([prompts[i] for i in kept], [targets[i] for i in kept], EOS, 100)


def nll(model, batch):
    """Of the targets, per token."""
    scores = by_hand.score(model(batch.tokens)[1], batch)
    return -scores.sum() / by_hand.targets(batch).sum()


def test_sft_learns_the_pairs_in_batches_of_their_seed(run):
    """The first step begins where pretraining ended."""
    rows = pairs(run, run.train)
    assert run.figures("sft")["sft_rows"] == len(rows)
    batches = Epochs(rows, 10, SEED)
    log = read_lines(run.path / "sft" / "sft.jsonl")
    assert [line["step"] for line in log] == list(range(1, 19))
    assert [line["step"] for line in read_lines(run.path / "sft" / "pretrain.jsonl")] == [1, 2]
    for step, folder in ((1, "checkpoints_pretrain/2"), (18, "checkpoints_sft/17")):
        state = by_hand.load_state(run.path / "sft" / folder)
        model = by_hand.Model.of_tree(state["trainable"], HEADS)
        wanted = nll(model, batches.at(step - 1))
        assert log[step - 1]["loss"] == pytest.approx(wanted, rel=1e-4), step


def test_pretraining_learns_mined_pairs(run):
    """Prompts of it have concepts of the task in them, and so have the lines it learns from."""
    lines = (run.data / "plain.txt").read_text().splitlines()
    named = {word for prompt, _ in run.train for word in prompt.split()[:-1]}
    held = [line for line in lines if named & set(line.split())]
    # <eos> concept = line <eos> at the least
    fit = [line for line in held if len(line.split()) + 4 <= 10]
    assert len(held) < len(lines)
    assert len(fit) / 2 < run.figures("sft")["pretrain_rows"] <= len(fit)


def test_sft_updates_are_those_of_its_optimiser(run):
    before, after = (
        by_hand.load_state(run.path / "sft" / "checkpoints_sft" / str(step)) for step in (17, 18)
    )
    by_hand.assert_update(before, after, run.config.sft, 17, 18)
    last = read_lines(run.path / "sft" / "sft.jsonl")[-1]
    gradient = by_hand.tree_norm(by_hand.gradient_between(before, after))
    assert last["grad_norm"] > 0.7 and gradient == pytest.approx(0.7, rel=1e-3)
    for name, weight in by_hand.Model.of_tree(after["trainable"], HEADS).weights.items():
        np.testing.assert_array_equal(weight, run.base.weights[name], err_msg=name)


# Rollouts


def test_rollouts_are_samples_of_the_base(run):
    """Three of each of six prompts, from streams of seed, prompt and sample."""
    rows = by_hand.part(run.rounds[0], ~run.rounds[0].reference)
    np.testing.assert_array_equal(rows.prompt_id, np.repeat(np.arange(6), 3))
    uniform = by_hand.uniforms(SEED, range(6), 3, 6)
    drawn = by_hand.sample(run.base.next, by_hand.begun(rows), uniform, 6, EOS)
    by_hand.assert_samples(rows, drawn, EOS)
    assert {True, False} == set(rows.finished.tolist())
    np.testing.assert_allclose(rows.log_proposal, [d.log_prob for d in drawn], rtol=0, atol=1e-4)
    assert len({len(d.tokens) for d in drawn}) > 2


def test_log_probabilities_of_all_rounds_are_those_of_the_base(run):
    for rows in run.rounds:
        wanted = by_hand.score(run.base(rows.tokens)[1], rows).sum(1)
        np.testing.assert_allclose(rows.log_base, wanted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(run.rounds[0].log_prefix, 0 * run.rounds[0].log_prefix, atol=1e-4)


def test_prompts_come_in_turn_through_all_rounds(run):
    """All twelve before any comes again; each is numbered once."""
    numbered = [run.prompts_of(rows) for rows in run.rounds]
    assert [list(prompts) for prompts in numbered] == [
        list(range(6)),
        list(range(6, 10)),
        list(range(10, 14)),
    ]
    in_turn = [text for prompts in numbered for text in prompts.values()]
    assert set(in_turn[:12]) == {prompt for prompt, _ in run.train}
    assert in_turn[:12] != [prompt for prompt, _ in run.train]  # shuffled


def test_labels_are_the_oracle_s(run):
    for rows in run.rounds:
        prompts = run.prompts_of(rows)
        asked = [prompts[number] for number in rows.prompt_id.tolist()]
        wanted = [lexical(*each) for each in zip(asked, run.texts_of(rows))]
        np.testing.assert_array_equal(rows.label, wanted)
        assert {0, 1} == set(rows.label.tolist())


def test_references_join_the_rollouts_of_their_prompts(run):
    """In the order of the task, with the numbers of the prompts, judged as samples are."""
    rows = by_hand.part(run.rounds[0], run.rounds[0].reference)
    numbers = {text: number for number, text in run.prompts_of(run.rounds[0]).items()}
    wanted = [
        (numbers[prompt], text, lexical(prompt, text))
        for prompt, texts in run.train
        if prompt in numbers
        for text in texts
    ]
    found = list(zip(rows.prompt_id.tolist(), run.texts_of(rows), rows.label.tolist()))
    assert found == wanted
    assert {True, False} == {label for *_, label in wanted}
    assert rows.finished.all() and not rows.log_prefix.any()
    assert (rows.tokens[np.arange(len(rows.length)), rows.length - 1] == EOS).all()
    stored = run.figures("rollout")
    assert stored["references"] == len(wanted)
    assert stored["references_success_rate"] == pytest.approx(np.mean([w[2] for w in wanted]))
    sampled = run.rounds[0].label[~run.rounds[0].reference]
    assert stored["samples"] == 18 and stored["successes"] == sampled.sum()
    assert stored["success_rate"] == pytest.approx(sampled.mean(), rel=1e-3)
    finished = run.rounds[0].finished[~run.rounds[0].reference]
    assert stored["finished"] == pytest.approx(finished.mean())
    assert 0 < stored["occupancy"] <= 1


def test_a_round_samples_q_and_the_base_in_their_shares(run):
    """Of four samples three are q's, by the state at the beginning of the round."""
    rows, q = run.rounds[2], run.control(run.before["trainable"]).q
    of_q, of_base = by_hand.part(rows, slice(12)), by_hand.part(rows, slice(12, None))
    np.testing.assert_array_equal(of_q.prompt_id, np.repeat(np.arange(10, 14), 3))
    np.testing.assert_array_equal(of_base.prompt_id, np.arange(10, 14))
    assert [set(each.round.tolist()) for each in run.rounds] == [{0}, {1}, {2}]
    for model, some, samples, fold in ((q, of_q, 3, None), (run.base, of_base, 1, 1)):
        uniform = by_hand.uniforms(SEED, range(10, 14), samples, 6, fold)
        by_hand.assert_samples(
            some, by_hand.sample(model.next, by_hand.begun(some), uniform, 6, EOS), EOS
        )


def test_the_proposal_of_a_mixture(run):
    """log(a p + (1 - a) q), for whole rows and for the prefixes before each token."""
    rows, q = run.rounds[2], run.control(run.before["trainable"]).q
    under_p, under_q = (by_hand.score(model(rows.tokens)[1], rows) for model in (run.base, q))
    wanted = np.log(0.25 * np.exp(under_p.sum(1)) + 0.75 * np.exp(under_q.sum(1)))
    np.testing.assert_allclose(rows.log_proposal, wanted, rtol=0, atol=1e-4)
    assert np.abs(under_q.sum(1) - under_p.sum(1)).max() > 0.3
    before_p, before_q = (np.exp(np.cumsum(x, 1) - x) for x in (under_p, under_q))
    inside = by_hand.targets(rows)
    prefix = np.log(before_p) - np.log(0.25 * before_p + 0.75 * before_q)
    np.testing.assert_allclose(rows.log_prefix[inside], prefix[inside], rtol=0, atol=1e-4)


# Stage train


def weights_of(run, rounds):
    rows = by_hand.joined(run.rounds[:rounds])
    return rows, by_hand.importance(rows, "importance", 0.9, 1.7)


def test_figures_of_the_rounds(run):
    for number, stored in enumerate(run.figures("train")[f"round_{n}"] for n in range(3)):
        rows, weight = weights_of(run, number + 1)
        sampled = ~np.isnan(rows.log_proposal)
        share = by_hand.per_prompt(weight * rows.label, rows)
        effective = share.sum() ** 2 / (share**2).sum()
        assert stored["effective_successes"] == pytest.approx(effective, rel=1e-4)
        newest = sampled & (rows.prompt_id >= (0, 6, 10)[number])
        assert stored["rollouts"] == sampled.sum() == (18, 34, 50)[number]
        rate = rows.label[newest].mean()
        assert stored["newest_success_rate"] == pytest.approx(rate)
        kl = (rows.log_proposal - rows.log_base)[newest].mean()
        assert stored["newest_kl"] == pytest.approx(kl, abs=1e-5)
        assert stored["newest_finished"] == pytest.approx(rows.finished[newest].mean())
        tokens = rows.length - rows.prompt_length
        fluency = rows.log_base[newest].sum() / tokens[newest].sum()
        assert stored["newest_log_prob_per_token"] == pytest.approx(fluency)
        if number == 0:
            base, good = rate, newest & (rows.label > 0.5)
            fluency = rows.log_base[good].sum() / tokens[good].sum()
            assert stored["log_prob_per_token_of_successes"] == pytest.approx(fluency)
            assert abs(kl) < 1e-4 and stored["newest_efficiency"] is None
        else:
            assert "log_prob_per_token_of_successes" not in stored
            wanted = pytest.approx(kl_floor(rate, base) / kl, rel=1e-3) if kl > 0 else None
            assert stored["newest_efficiency"] == wanted
        assert stored["oracle_failures"] == 0
        told = {(p, *t[:n]) for p, t, n in zip(rows.prompt_id, rows.tokens.tolist(), rows.length)}
        assert stored["repeated"] == pytest.approx(1 - len(told) / len(sampled), abs=1e-4)


def test_phases_and_what_they_log(run):
    """Rounds end at steps 1, 3 and 4; the first step is the warm-up, and lambda counts from the
    fourth step on."""
    stages = ["warm-up", "train round 1", "train round 1", "train round 2"]
    assert [line["stage"] for line in run.log] == stages
    assert [line["step"] for line in run.log] == [1, 2, 3, 4]
    assert run.log[0]["loss"] == run.log[0]["direction"]
    for line in run.log[1:]:
        parts = sum(line[name] for name in ("direction", "rate", "value", "terminal"))
        weight = 0.6 if line["step"] > 3 else 0
        assert line["bellman"] > 1e-4
        assert line["loss"] == pytest.approx(parts + weight * line["bellman"], rel=1e-5)


def test_the_warm_up_is_the_likelihood_of_successes(run):
    """q = p at the first step."""
    rows, weight = weights_of(run, 1)
    (_, warmup), _ = phases(run.config.train)
    chosen = warmup.batches(Rollouts(**vars(rows)), np.float32(weight), SEED)(0).row
    assert len(chosen) == 12 and (rows.label[chosen] == 1).all()
    log_p = by_hand.score(run.base(rows.tokens)[1], rows).sum(1)
    assert run.log[0]["loss"] == pytest.approx(-log_p[chosen].mean(), rel=1e-5)


@pytest.fixture(scope="module")
def last_batch(run):
    """The rows that the last step sees, by their numbers, and what they carry, by hand."""
    rows, weight = weights_of(run, 3)
    rollouts = Rollouts(**vars(rows))
    objective = OBJECTIVES["regression"](run.config.train)
    batch = objective.batches(rollouts, np.float32(weight), SEED)(STEP - 1)
    batch = types.SimpleNamespace(direction=batch.direction.row, norm=batch.norm.row)
    assert len(batch.direction) == len(batch.norm) == 6
    batch.rows = rows
    label = np.maximum(rows.label, np.exp(-2.5))
    batch.target = rows.log_base + np.log(label / by_hand.rates(rows))
    sampled = ~np.isnan(rows.log_proposal)
    batch.ratio = by_hand.optimal_ratios(rows, weight) / np.where(sampled, 1, 1.7)
    batch.shift = np.log((1 - rows.label)[sampled].sum() / rows.label[sampled].sum())
    batch.suffix = by_hand.suffixes(rows, "importance")
    batch.rate = by_hand.rates(rows, shrinkage=0)
    return batch


def losses(run, batch, params):
    """direction, rate, value, terminal and bellman of the last step."""
    control = run.control(params)
    chosen = by_hand.part(batch.rows, batch.direction)
    log_q = by_hand.values(control, chosen).log_q
    error = by_hand.huber(log_q - batch.target[batch.direction])
    # References have no proposal: as failures they do not pull.
    ratio = np.nan_to_num(log_q - chosen.log_proposal, nan=-np.inf)
    failure = 8 * np.exp(np.minimum(ratio, 3)) * (1 + np.maximum(ratio - 3, 0))
    error = np.where(chosen.label > 0, error, failure)
    # No value exceeds 1 here: tests/objectives/test_bound.py has that term.
    likelihood = (batch.ratio[batch.direction] * log_q).mean()
    found = by_hand.values(control, by_hand.part(batch.rows, batch.norm))
    label = np.repeat([1.0, 0.0], 3)
    np.testing.assert_array_equal(batch.rows.label[batch.norm], label)
    suffix, rate = batch.suffix[batch.norm], batch.rate[batch.norm]
    norm = by_hand.norm_terms(found, label, suffix, rate, batch.shift)
    return {"direction": error.mean() - 0.2 * likelihood, **norm}


def test_the_losses_of_the_last_step(run, last_batch):
    wanted = losses(run, last_batch, run.before["trainable"])
    for name, value in wanted.items():
        assert run.log[-1][name] == pytest.approx(value, rel=2e-4, abs=1e-6), name


def test_the_gradient_of_the_last_step(run, last_batch):
    """Direction and norm each by the losses that move them, as finite differences have it."""
    clipped = by_hand.gradient_between(run.before, run.after)
    norm = run.log[-1]["grad_norm"]
    assert norm > 0.6 and by_hand.tree_norm(clipped) == pytest.approx(0.6, rel=1e-3)
    params = jax.tree.map(np.float64, run.before["trainable"])
    rng = np.random.default_rng(0)
    terms = {
        "direction": {"direction": 1},
        "norm": {"rate": 1, "value": 1, "terminal": 1, "bellman": 0.6},
    }
    for moved, weights in terms.items():
        gradient = jax.tree.map(lambda g: g * norm / 0.6, clipped[moved])
        leaves, structure = jax.tree.flatten(gradient)
        size = by_hand.tree_norm(gradient)
        for _ in range(2):
            tangent = [1e-5 * (g / size + rng.normal(0, 0.05, np.shape(g))) for g in leaves]
            slope = sum((g * dx).sum() for g, dx in zip(leaves, tangent))
            either = []
            for sign in (1, -1):
                at = [x + sign * dx for x, dx in zip(jax.tree.leaves(params[moved]), tangent)]
                at = {**params, moved: jax.tree.unflatten(structure, at)}
                found = losses(run, last_batch, at)
                either.append(sum(weight * found[name] for name, weight in weights.items()))
            assert (either[0] - either[1]) / 2 == pytest.approx(slope, rel=5e-3), moved


def test_the_last_update_is_the_optimiser_s(run):
    by_hand.assert_update(run.before, run.after, run.config.train, STEP - 1, 4)
    final = by_hand.load_state(run.path / "train" / "control" / "4")
    for one, other in zip(
        jax.tree.leaves(final), jax.tree.leaves(run.after["trainable"]), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_the_delta_is_of_the_rank_and_of_the_parameters_asked_for(run):
    direction = run.after["trainable"]["direction"]
    shapes = {path: {k: v.shape for k, v in change.items()} for path, change in direction.items()}
    sizes = {"attn/c_attn": (12, 36), "attn/c_proj": (12, 12), "mlp/c_fc": (12, 48)}
    sizes["mlp/c_proj"] = (48, 12)
    wanted = {
        f"h_0/{name}/kernel": {"a": (rows, 2), "b": (2, columns)}
        for name, (rows, columns) in sizes.items()
    }
    assert shapes == wanted | {f"ln_f/{name}": {"full": (12,)} for name in ("scale", "bias")}
    leaves = jax.tree.leaves(run.after["trainable"])
    assert run.figures("train")["trainable_parameters"] == sum(np.size(leaf) for leaf in leaves)


# Stage generate


@pytest.mark.parametrize(
    ("name", "samples", "strength"),
    [("base", 4, 0), ("control", 4, 1.6), ("strengths/0.7", 1, 0.7)],
)
def test_held_out_prompts_are_continued_as_decode_says(run, name, samples, strength):
    """The first six of dev, tempered, truncated and tilted."""
    lines = read_lines(run.path / "generate" / f"{name}.jsonl")
    prompts = [prompt for prompt, _ in read_examples(run.data / "dev.jsonl")[:6]]
    asked = [prompt for prompt in prompts for _ in range(samples)]
    assert [line["prompt"] for line in lines] == asked
    assert [line["prompt_id"] for line in lines] == np.repeat(np.arange(6), samples).tolist()
    ids = run.codec.prompts(asked)
    uniform = by_hand.uniforms(SEED + 1, range(6), samples, 5)
    if name == "base":
        policy = run.base.next
    else:
        lengths = {tuple(each): len(each) for each in ids}
        policy = by_hand.tilted(
            run.control(run.after["trainable"]),
            strength=strength,
            target_rate=0.8,
            reject=0.3,
            prompt_length=lambda rows: [
                next(n for p, n in lengths.items() if tuple(row[:n].tolist()) == p) for row in rows
            ],
        )
    method = {"temperature": 0.9, "top_k": 30, "top_p": 0.97}
    drawn = by_hand.sample(policy, ids, uniform, 5, EOS, **method)
    for line, each, prompt in zip(lines, drawn, ids):
        (text,) = run.codec.decode([each.tokens])
        assert line["text"] == text and line["tokens"] == len(each.tokens)
        assert line["label"] == lexical(line["prompt"], text)
        assert line["finished"] == (each.tokens[-1] == EOS)
        assert line["log_prob"] == pytest.approx(each.log_prob, abs=1e-4)
        row = np.array([[*prompt, *each.tokens]])
        given = types.SimpleNamespace(
            tokens=row,
            prompt_length=np.array([len(prompt)]),
            length=np.array([row.shape[1]]),
        )
        under_base = by_hand.score(run.base(row)[1], given).sum()
        assert line["log_prob_base"] == pytest.approx(under_base, abs=1e-4)
        value = by_hand.values(run.control(run.after["trainable"]), given).value
        assert line["value"] == pytest.approx(np.exp(value[0, len(prompt) - 1]), abs=1e-5)
    stored = run.figures("generate")
    failures = {f"{name}_oracle_failures": 0 for name in ("base", "control", "strength")}
    assert stored == {"prompts": 6, **failures, "strength_samples": 6}

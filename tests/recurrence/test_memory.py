"""Memories between windows: what they change, what they may not, and what they cost."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import support
from support import tiny
from support.folders import refused

from dinado_jax.config.schema import Parallel
from dinado_jax.decoding.methods import Method
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.models.architectures import load_model, load_params
from dinado_jax.recurrence.decoding import draw_windows
from dinado_jax.recurrence.likelihood import likelihood
from dinado_jax.recurrence.module import Recurrence
from dinado_jax.recurrence.scoring import document_nats
from dinado_jax.recurrence.training import RecurrentState, make_step
from dinado_jax.recurrence.windows import Documents, Streams
from dinado_jax.training.step import init_state, split_micro_batches

pytestmark = pytest.mark.usefixtures("compiled_quickly")

BASES = ("gpt2_inner", "llama_groups_2", "llama_qwen3")
T = 6


@functools.cache
def made(base, scale=0.5):
    """(recurrence, the base's variables, parameters of the network: as they begin, or any)"""
    model = load_model(support.GOLDEN / base)
    recurrence = Recurrence(model, model.num_layers, 0, T, hidden=12)
    with jax.ensure_compile_time_eval():
        params = recurrence.init(jax.random.key(1))
        params = tiny.noisy(params, scale) if scale else params
    return recurrence, {"params": load_params(support.GOLDEN / base, model)}, params


def documents(recurrence, lengths, seed=0):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, recurrence.model.vocab_size, n).tolist() for n in lengths]
    return Documents.of([row[:1] for row in rows], [row[1:] for row in rows], T)


def side_by_side(documents):
    """All documents as rows, the shorter ones padded."""
    index = np.full((len(documents), documents.counts.max()), -1)
    for row, count in enumerate(documents.counts):
        index[row, :count] = documents.windows_of(row)
    return documents.at(index)


@functools.partial(jax.jit, static_argnums=0)
def window_by_hand(recurrence, variables, params, memory, tokens):
    """Nats and memory of one window [T], written out: a state is averaged, goes through three
    layers and is attended to by a sigmoid."""
    out = recurrence.model.apply(recurrence.variables(variables, memory), tokens[None])
    scores = jax.nn.log_softmax(out.logits[0], -1)
    mean = out.hidden[0].mean(0)
    x = mean / jnp.sqrt((mean**2).mean() + 1e-6)
    x = jax.nn.gelu(x @ params["in"] + params["in_bias"])
    x = jax.nn.gelu(x @ params["middle"] + params["middle_bias"])
    nats = -sum(scores[t, tokens[t + 1]] for t in range(T - 1))
    return nats, (x @ params["out"] + params["out_bias"])[None]


@pytest.mark.parametrize("base", BASES[:2])
def test_gradients_through_eight_windows_are_those_of_the_unrolled_graph(base):
    recurrence, variables, params = made(base)
    rows = documents(recurrence, [8 * (T - 1) + 1])
    batch = side_by_side(rows)

    @jax.jit
    def scanned(given):
        nats, _ = likelihood(recurrence, *given, recurrence.empty(1), batch)
        return nats.sum(), nats[0]

    def unrolled(given):
        memory, nats = recurrence.empty(1), []
        for tokens in rows.rows.tokens:
            own, memory = window_by_hand(recurrence, *given, memory, tokens)
            nats.append(own)
        return jnp.stack(nats).sum(), jnp.stack(nats)

    found, wanted = (
        jax.grad(loss, has_aux=True)((variables, params)) for loss in (scanned, unrolled)
    )
    assert rows.counts == [8] and all(np.any(leaf) for leaf in found[0][1].values())
    chex.assert_trees_all_close(found, wanted, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("base", [BASES[0], BASES[2]])
def test_a_fresh_one_is_the_plain_windows_exactly(base):
    recurrence, variables, params = made(base, scale=0)
    rows = documents(recurrence, [23, 9])
    nats, memory = jax.jit(likelihood, static_argnums=0)(
        recurrence, variables, params, recurrence.empty(2), side_by_side(rows)
    )
    assert not np.any(memory)
    tokens = jnp.asarray(rows.rows.tokens)
    apply = jax.jit(recurrence.model.apply)
    out = apply(variables, tokens)
    again = apply(recurrence.variables(variables, recurrence.empty(len(tokens))), tokens)
    chex.assert_trees_all_equal(again, out)
    scores = np.take_along_axis(jax.nn.log_softmax(out.logits[:, :-1]), tokens[:, 1:, None], 2)
    counted = np.arange(1, T)[None] < rows.rows.length[:, None]
    plain = -(scores[..., 0] * counted).sum(1)
    found = np.concatenate([nats[0, : rows.counts[0]], nats[1, : rows.counts[1]]])
    np.testing.assert_allclose(found, plain, rtol=1e-5)


def test_it_is_causal():
    """A token changes what follows it, windows later too, and nothing before."""
    base = "llama_qwen3"
    recurrence, variables, params = made(base)
    rows = documents(recurrence, [4 * (T - 1) + 1])
    batch = side_by_side(rows)

    def of_windows(tokens):
        """The nats of each window; each predicts T - 1 tokens."""
        changed = dataclasses.replace(batch, tokens=tokens)
        memory = recurrence.empty(1)
        return np.asarray(read(recurrence, variables, params, memory, changed)[0][0])

    read = jax.jit(likelihood, static_argnums=0)
    before, tokens = of_windows(batch.tokens), batch.tokens.copy()
    tokens[0, 1, 3] = 1 + tokens[0, 1, 3] % (recurrence.model.vocab_size - 1)
    after = of_windows(tokens)
    assert before[0] == after[0] and (np.abs(before - after)[1:] > 1e-6).all()
    # Within a window: the token that is predicted last is seen by nothing of its window.
    memory = jnp.asarray(
        np.random.default_rng(0).standard_normal((1, recurrence.width)), jnp.float32
    )
    own = recurrence.variables(variables, memory)
    apply = jax.jit(recurrence.model.apply)
    one, other = (apply(own, row).hidden for row in (batch.tokens[:, 1], tokens[:, 1]))
    np.testing.assert_array_equal(one[:, :3], other[:, :3])
    assert np.any(one[:, 3:] != other[:, 3:])


def test_padding_windows_keep_the_memory_and_rows_are_apart():
    recurrence, variables, params = made("gpt2_inner")
    rows = documents(recurrence, [16, 4, 30])
    read = functools.partial(jax.jit(likelihood, static_argnums=0), recurrence, variables, params)
    nats, memory = read(recurrence.empty(3), side_by_side(rows))
    assert not np.any(nats[0, 3:]) and not np.any(nats[1, 1:])
    for row in range(3):
        alone, own = read(recurrence.empty(1), rows.at(rows.windows_of(row)[None]))
        np.testing.assert_allclose(nats[row, : rows.counts[row]], alone[0], rtol=1e-5)
        np.testing.assert_allclose(memory[row], own[0], rtol=1e-4, atol=1e-5)
    # One document after another: the second begins with an empty memory.
    index = np.concatenate([rows.windows_of(0), rows.windows_of(2)])[None]
    joined, _ = read(recurrence.empty(1), rows.at(index))
    apart = np.concatenate([nats[0, : rows.counts[0]], nats[2, : rows.counts[2]]])
    np.testing.assert_allclose(joined[0], apart, rtol=1e-5)
    # The end of a short window is padding too.
    short = rows.at(rows.windows_of(1)[None])
    short.tokens[0, 0, 4:] = 7
    chex.assert_trees_all_equal(
        read(recurrence.empty(1), short),
        read(recurrence.empty(1), rows.at(rows.windows_of(1)[None])),
    )


def test_scratch_memory_does_not_grow_with_the_windows():
    recurrence, variables, params = made("gpt2_inner")

    def scratch(count, function):
        batch = side_by_side(documents(recurrence, [count * (T - 1) + 1]))
        given = variables, params, recurrence.empty(1), batch
        program = jax.jit(function).lower(*given).compile()
        return program.memory_analysis().temp_size_in_bytes

    read = functools.partial(likelihood, recurrence)
    assert scratch(64, read) == scratch(4, read)
    gradient = jax.grad(lambda *given: read(*given)[0].sum())
    grown = scratch(64, gradient) - scratch(4, gradient)
    assert grown <= 60 * 4 * (recurrence.width + 8 * T)  # a memory and the tokens of each window


def test_documents_are_scored_together_as_alone():
    recurrence, variables, params = made("llama_groups_2")
    rows = documents(recurrence, [120, 3, 61, 14])
    found = document_nats(recurrence, variables, params, rows, batch=3)
    np.testing.assert_array_equal(found[:, 1], [119, 2, 60, 13])
    nats, _ = jax.jit(likelihood, static_argnums=0)(
        recurrence, variables, params, recurrence.empty(4), side_by_side(rows)
    )
    np.testing.assert_allclose(found[:, 0], np.asarray(nats).sum(1), rtol=1e-5)


def test_each_token_is_drawn_by_a_number_of_its_own():
    """Of logits that are all equal: other tokens in every window, whatever the prompt is."""
    recurrence, variables, params = made("gpt2_inner")
    blank = jax.tree.map(jnp.zeros_like, variables)
    keys = jax.random.split(jax.random.key(0), 2)

    def drawn(prompt, steps):
        parts = draw_windows(recurrence, blank, params, prompt, Method(), keys, steps)
        return np.concatenate([part.tokens for part in parts], 1)

    tokens = drawn([3], 20)
    assert len({tuple(row) for row in tokens.reshape(8, 5)}) == 8
    np.testing.assert_array_equal(drawn([1, 2, 3], 13), tokens[:, :13])


@pytest.mark.parametrize("base", BASES[:2])
def test_what_is_drawn_has_the_likelihood_that_scoring_gives_it(base):
    """After prompts of several windows, of one exactly, and of one token."""
    recurrence, variables, params = made(base)
    keys = jax.random.split(jax.random.key(0), 2)
    for prompt in ([3], [3, 1, 2, 5, 4, 6], list(range(1, 18))):
        own = recurrence, variables, params
        parts = list(draw_windows(*own, prompt, Method(), keys, 60))
        tokens, log_probs = (np.concatenate(each, 1) for each in zip(*parts))
        assert tokens.shape == (2, 60) and np.any(tokens[0] != tokens[1])
        rows = Documents.of([prompt[:1]] * 2, [[*prompt[1:], *row] for row in tokens.tolist()], T)
        whole = document_nats(*own, rows)[:, 0]
        if len(prompt) > 1:
            head = Documents.of([prompt[:1]], [prompt[1:]], T)
            whole = whole - document_nats(*own, head)[:, 0]
        np.testing.assert_allclose(-log_probs.sum(1), whole, rtol=1e-4)


# Streams


def test_an_epoch_has_every_window_once_and_rows_go_on():
    recurrence = made("gpt2_inner")[0]
    rows = documents(recurrence, [23, 9, 40, 16, 31])
    streams = Streams(rows, batch=2, windows=3, seed=0)
    steps = [streams.at(step) for step in range(streams.per_epoch)]
    tokens = np.concatenate([step.tokens for step in steps], 1)
    begins = np.concatenate([step.begins for step in steps], 1)
    assert begins[:, 0].all() and begins.sum() >= 5
    for row, first in zip(tokens, begins):
        follows = row[1:, 0] == row[:-1, -1]
        assert (follows | first[1:]).all()
    seen = {tuple(window) for window in tokens.reshape(-1, T)}
    assert seen <= {tuple(window) for window in rows.rows.tokens}
    assert len(seen) == tokens.shape[0] * tokens.shape[1] > len(rows.rows) - 2 - 2 * 3
    again, later = Streams(rows, 2, 3, 0), streams.per_epoch
    chex.assert_trees_all_equal(again.at(later + 1), streams.at(later + 1))
    assert np.any(again.at(later).tokens != steps[0].tokens)  # another order
    refused("have 24 windows, a step takes 9 rows of 3", Streams, rows, 9, 3, 0)


def test_memories_go_on_from_step_to_step():
    """Two steps that change nothing have the losses of all their windows in one."""
    recurrence, variables, params = made("gpt2_inner")
    streams = Streams(documents(recurrence, [61, 52, 44]), batch=2, windows=2, seed=0)
    plan, still = make_plan(Parallel(devices=1)), optax.sgd(0.0)
    step = make_step(recurrence, None, still, plan)
    trainable = jax.tree.map(jnp.array, {"base": variables["params"], "memory": params})
    begun = init_state(trainable, still)
    state = RecurrentState(begun.step, trainable, begun.opt_state, memory=recurrence.empty(2))
    losses = []
    for index in range(3):
        batch = plan.shard_batch(split_micro_batches(streams.at(index), 1))
        state, metrics = step(state, None, batch)
        losses.append(float(metrics["loss"]))
    whole = jax.tree.map(
        lambda *parts: np.concatenate(parts, 1),
        *(dataclasses.replace(streams.at(index), row=None) for index in range(3)),
    )
    assert whole.begins[:, 2:].any()  # documents begin within the steps
    nats, memory = jax.jit(likelihood, static_argnums=0)(
        recurrence, variables, params, recurrence.empty(2), whole
    )
    shares = np.asarray(nats).sum(0).reshape(3, 2).sum(1) / whole.targets.sum(0).reshape(3, 2).sum(
        1
    )
    np.testing.assert_allclose(losses, shares, rtol=1e-5)
    np.testing.assert_allclose(state.memory, memory, rtol=1e-4, atol=1e-5)

"""Refilled rows draw what batches draw, in as few steps as there can be."""

import dataclasses
import heapq

import jax
import numpy as np
import pytest
from support import tiny_run, world

from dinado_jax import language_model
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.decoding.batching import restore_order
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.refill import draw_queue, iter_refilled, prefill_queue, start_rows
from dinado_jax.decoding.sampler import Sampler, Samples, sample_prompts
from dinado_jax.errors import InputError
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.params import init_params

EOS, NEW, LONGEST, SAMPLES = 0, 6, 16, 3
MODEL = GPT2(GPT2Config(vocab_size=5, n_positions=LONGEST + NEW, n_embd=16, n_layer=1, n_head=2))
POLICY = ModelPolicy(MODEL)
KEY = jax.random.key(3)
_rng = np.random.default_rng(0)
PROMPTS = [_rng.integers(1, 5, n).tolist() for n in (3, 7, 12, 5, 16, 8, 1, 11)] * 4
MANY = TokenizedPrompts(PROMPTS)


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def variables():
    params = init_params(MODEL, seed=2)
    params["ln_f"]["scale"] *= 0.4
    return {"params": params}


def sampler(policy=POLICY, new=NEW, samples=SAMPLES, method=None, **options):
    return Sampler(policy, method or Method(), (EOS,), new, samples, **options)


def refilled(of: Sampler, variables, prompts: TokenizedPrompts, batch: int):
    """Samples in the order of the prompts, and row-steps run and used."""
    index, parts, row_steps = zip(*iter_refilled(of, variables, prompts, KEY, batch))
    return restore_order(index, parts), np.sum(row_steps, axis=0)


def assert_same(some: Samples, others: Samples):
    for name in ("tokens", "length", "finished"):
        np.testing.assert_array_equal(getattr(some, name), getattr(others, name), err_msg=name)
    for name in ("log_probs", "log_policy", "log_base"):
        found, expected = getattr(some, name), getattr(others, name)
        assert (found is None) == (expected is None)
        if found is not None:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("batch", [6, 500])
def test_refilled_rows_draw_the_same_samples(variables, batch):
    """Of two widths, and with rows that outnumber the samples."""
    of = sampler(method=Method(0.9, 4, 0.95), scores=True)
    found, (_, used) = refilled(of, variables, MANY, batch)
    assert_same(found, sample_prompts(of, variables, MANY, KEY, 24))
    assert used == (found.length - 1).sum()  # the first token comes from the prefill


def test_rows_of_one_token_run_no_step(variables):
    found, (run, _) = refilled(sampler(new=1), variables, MANY, 12)
    assert_same(found, sample_prompts(sampler(new=1), variables, MANY, KEY, 12))
    assert run == 0


@pytest.mark.parametrize("kind", ["nado", "projected-merge"])
def test_every_control_is_refilled(kind):
    """With a cache and a recursion of its own, and the value of each row's prompt."""
    base = language_model.Base(world.MODEL, world.base_params(), None)
    model = language_model.Controlled(base, world.control(kind), world.params(kind))
    model = model.tilted(strength=0.7, target_rate=0.8)
    prompts = TokenizedPrompts(world.PROMPTS * 8)
    of = dataclasses.replace(sampler(model.policy, world.N, scores=True), stop_ids=(world.EOS,))
    found, _ = refilled(of, model.variables, prompts, 12)
    assert_same(found, sample_prompts(of, model.variables, prompts, KEY, 24))


def test_a_sample_is_the_same_to_the_bit_in_every_row(variables):
    """A collection that continues finds other rows beside it, and ends with the same file."""
    whole, _ = refilled(sampler(), variables, MANY, 12)
    order = np.random.default_rng(1).permutation(len(MANY))
    other, _ = refilled(sampler(), variables, MANY.select(order), 12)
    rows = (np.argsort(order)[:, None] * SAMPLES + np.arange(SAMPLES)).ravel()
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[rows]), whole, other)


def test_batches_come_whole_and_in_order(variables):
    seen = [rows.tolist() for rows, *_ in iter_refilled(sampler(), variables, MANY, KEY, 12)]
    expected = []
    for width in (range(9), range(9, 17)):
        members = [i for i, prompt in enumerate(PROMPTS) if len(prompt) in width]
        for start in range(0, len(members), 4):
            part = members[start : start + 4]
            expected.append([SAMPLES * i + s for i in part for s in range(SAMPLES)])
    assert seen == expected


def fewest_steps(lengths, rows: int) -> int:
    """Steps until all samples have ended, if a row that ends takes the next one at once."""
    ends = [0] * rows
    for steps in lengths:
        heapq.heapreplace(ends, ends[0] + steps)
    return max(ends)


def test_no_step_is_wasted(variables):
    """As many as a schedule on paper has; rows are idle at the end of a width alone."""
    prompts = TokenizedPrompts([PROMPTS[0], PROMPTS[1], PROMPTS[3]] * 20)
    found, (run, used) = refilled(sampler(), variables, prompts, 12)
    steps = [length - 1 for length in found.length.tolist() if length > 1]
    assert run == 12 * fewest_steps(steps, 12)
    assert used / run > 0.9


def test_caches_are_written_in_place(variables):
    """The loop of one queue needs less scratch memory than a second copy of the caches."""
    of = sampler(samples=64)
    ids = np.arange(8, dtype=np.int32)
    args = variables, MANY.batch(np.arange(8), EOS, LONGEST), ids, ids, KEY
    queue = jax.eval_shape(lambda *args: prefill_queue(of, *args), *args)
    rows = jax.eval_shape(lambda queue: start_rows(of, queue), queue)
    lowered = draw_queue.lower(of, variables, rows, queue, np.bool_(True))
    memory = lowered.compile().memory_analysis()
    cache = sum(leaf.size * 4 for leaf in jax.tree.leaves(rows.carry))
    assert memory.alias_size_in_bytes >= cache > 1e6
    assert memory.temp_size_in_bytes < cache / 2


def test_a_model_that_says_nothing_is_an_error_that_names_the_prompt(variables):
    broken = jax.tree.map(np.array, variables)
    broken["params"]["wpe"]["embedding"][10] = np.nan
    prompts = TokenizedPrompts([[1], [1, 2], [1] * 12])
    with pytest.raises(InputError, match=r"^prompt 2: no token can be drawn after it"):
        refilled(sampler(new=2), broken, prompts, 3)


@pytest.mark.parametrize("window", [None, 4])
def test_grouped_heads_windows_and_several_stop_tokens(window):
    """A Llama whose window is shorter than its rows; the same samples as in batches."""
    model = Llama(
        LlamaConfig(
            vocab_size=5,
            max_position_embeddings=LONGEST + NEW,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=4,
            sliding_window=window,
        )
    )
    of = dataclasses.replace(sampler(ModelPolicy(model)), stop_ids=(EOS, 4))
    params = {"params": init_params(model, seed=1)}
    found, _ = refilled(of, params, MANY, 12)
    assert_same(found, sample_prompts(of, params, MANY, KEY, 12))
    last = np.take_along_axis(found.tokens, found.length[:, None] - 1, 1)
    assert set(last[found.finished].ravel().tolist()) == {EOS, 4}

"""Low-rank deltas: identity at first, one function on the fly and merged, strict about paths."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from support import tiny

from dinado_jax.adapters.lora import LoRA
from dinado_jax.errors import InputError
from dinado_jax.models.params import abstract_params
from dinado_jax.objectives.draws import LabeledBatch
from dinado_jax.objectives.matching import Likelihood
from dinado_jax.training.step import init_state, make_step, split_micro_batches

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ATTENTION, MLP = r"h_\d+/attn/c_\w+/kernel", r"h_\d+/mlp/c_\w+/kernel"
# (low_rank, full) rules: each kind of parameter alone, then all together.
RULES = {
    "kernels": ((ATTENTION, MLP), ()),
    "full kernels": ((), (ATTENTION, MLP)),
    "embedding": (("wte/embedding",), ()),
    "full embedding": ((), ("wte/embedding",)),
    "positions": (("wpe/embedding",), ()),
    "full positions": ((), ("wpe/embedding",)),
    "vectors": ((), (r".*/ln_\d/\w+", r"ln_f/\w+", r".*/bias")),
    "everything": ((ATTENTION, MLP, "wte/embedding"), ("wpe/embedding", r".*ln_\w+/\w+", ".*bias")),
}
RANK, SCALE = 3, 2.0
ANY = LoRA(RANK, RANK * SCALE, (), ())  # applies and merges a delta, whatever its rules
TOKENS = np.random.default_rng(0).integers(1, tiny.VOCABULARY, (2, 12)).astype(np.int32)
BATCH = LabeledBatch(
    tokens=TOKENS,
    prompt_length=np.ones(2, np.int32),
    length=np.full(2, 12, np.int32),
    label=np.ones(2, np.float32),
)


def init(low_rank=(), full=()):
    return LoRA(RANK, RANK * SCALE, low_rank, full).init(jax.random.key(0), tiny.base_params())


@jax.jit
def logits(params, delta=None):
    variables = {"params": params} if delta is None else ANY.variables(params, delta)
    return tiny.model().apply(variables, TOKENS).logits


def refused(*words):
    return pytest.raises(InputError, match="^[^\n]*" + "[^\n]*".join(words) + "[^\n]*$")


@pytest.mark.parametrize("name", RULES)
def test_a_fresh_delta_is_exactly_the_identity(name):
    delta = init(*RULES[name])
    np.testing.assert_array_equal(logits(tiny.base_params(), delta), logits(tiny.base_params()))
    chex.assert_trees_all_equal(ANY.merge(tiny.base_params(), delta), tiny.base_params())


@pytest.mark.parametrize("name", RULES)
def test_on_the_fly_equals_merged(name):
    """And differs from the base: every rule reaches the logits."""
    base = tiny.base_params()
    delta = tiny.noisy(init(*RULES[name]), 0.2)
    with jax.default_matmul_precision("highest"):
        adapted = logits(base, delta)
        np.testing.assert_allclose(adapted, logits(ANY.merge(base, delta)), rtol=1e-5, atol=1e-5)
        assert np.abs(adapted - logits(base)).max() > 0.05


def test_every_path_of_a_delta_counts():
    """Each change alone moves the logits: none is read under a wrong name."""
    base, before = tiny.base_params(), logits(tiny.base_params())
    fresh = init(*RULES["everything"])
    assert set(fresh) == set(flatten_dict(base, sep="/"))
    shaken = tiny.noisy(fresh, 0.5)
    for path in fresh:
        # A bias of the keys shifts all scores of a query alike, but c_attn/bias holds more.
        assert np.abs(logits(base, {**fresh, path: shaken[path]}) - before).max() > 1e-3, path


def test_merge_adds_the_scaled_product_and_keeps_the_dtype():
    base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny.base_params())
    path = "h_0/attn/c_proj/kernel"
    delta = tiny.noisy(init((path,), ("ln_f/bias",)), 0.3)
    merged = ANY.merge(base, delta)
    chex.assert_trees_all_equal_shapes_and_dtypes(merged, base)
    before, after = flatten_dict(base, sep="/"), flatten_dict(merged, sep="/")
    addend = SCALE * (np.float64(delta[path]["a"]) @ np.float64(delta[path]["b"])).T
    np.testing.assert_allclose(
        np.float64(after[path]), np.float64(before[path]) + addend, rtol=2**-8, atol=1e-6
    )
    untouched = set(before) - set(delta)
    chex.assert_trees_all_equal({p: after[p] for p in untouched}, {p: before[p] for p in untouched})


def test_shapes_and_sizes():
    delta = init((r"h_0/attn/c_attn/kernel",), (r"ln_f/\w+",))
    chex.assert_shape(delta["h_0/attn/c_attn/kernel"]["a"], (16, RANK))
    chex.assert_shape(delta["h_0/attn/c_attn/kernel"]["b"], (RANK, 48))
    chex.assert_shape(delta["ln_f/scale"]["full"], (16,))
    assert sum(x.size for x in jax.tree.leaves(delta)) == RANK * (16 + 48) + 2 * 16
    chex.assert_trees_all_equal_dtypes(delta, jax.tree.map(jnp.float32, delta))
    factors = init((ATTENTION,))
    a = [change["a"] for change in factors.values()]
    assert all(np.abs(x).max() <= 0.25 and np.std(x) > 0.1 for x in a)  # within 1 / sqrt(16)
    assert not np.array_equal(a[0], a[1])


def test_a_delta_of_shapes_alone():
    adapter = LoRA(RANK, 1.0, (MLP,))
    delta = adapter.init(jax.random.key(0), abstract_params(tiny.model()))
    chex.assert_trees_all_equal(delta, init((MLP,)))


def test_full_wins_where_both_match_and_overlapping_rules_count_once():
    delta = init((ATTENTION, r"h_0/.*/kernel"), (r"h_0/attn/c_proj/kernel",))
    assert set(delta["h_0/attn/c_proj/kernel"]) == {"full"}
    assert set(delta["h_0/attn/c_attn/kernel"]) == {"a", "b"}
    assert len(delta) == 4


@jax.jit
def gradients_of_log_policy(params):
    def total(params):
        return tiny.control().log_policy(tiny.base_params(), params, BATCH).sum()

    return jax.grad(total)(params)


def test_gradients_reach_every_factor():
    gradients = gradients_of_log_policy(tiny.random_params())
    chex.assert_tree_all_finite(gradients)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["direction"]))


def test_at_first_only_b_and_full_have_gradients():
    """b = 0 hides a; were both zero, nothing could ever move."""
    gradients = gradients_of_log_policy(tiny.fresh_params())
    for path, change in gradients["direction"].items():
        for name, leaf in change.items():
            assert np.any(leaf) == (name != "a"), (path, name)


def test_training_a_delta_leaves_the_base_as_it_was():
    """A step changes the whole delta; the base is handed in and out of the step untouched."""
    base, params = tiny.base_params(), tiny.random_params()
    before = jax.tree.map(np.array, base)
    optimizer = optax.sgd(0.1)

    def terms(params, base, batch):
        return {"direction": Likelihood().term(tiny.control(), params, base, batch)}

    step = make_step(terms, optimizer)
    state, _ = step(
        init_state(jax.tree.map(jnp.array, params), optimizer), base, split_micro_batches(BATCH, 1)
    )
    moved = jax.tree.map(
        lambda x, y: np.any(x != y), state.trainable["direction"], params["direction"]
    )
    assert all(jax.tree.leaves(moved))
    chex.assert_trees_all_equal(base, before)


# Refusals


@pytest.mark.parametrize(
    ("low_rank", "full", "words"),
    [
        (("h_9/attn/c_attn/kernel",), (), ["delta.low_rank", "h_9", "matches no parameter"]),
        # The whole path has to match.
        (("c_attn",), (), ["delta.low_rank", "c_attn", "matches no parameter"]),
        ((), ("ln_f",), ["delta.full", "ln_f", "matches no parameter"]),
        ((ATTENTION, "h_(",), (), ["delta.low_rank", "not a regular expression"]),
        ((), ("*",), ["delta.full", "not a regular expression"]),
        ((r"h_0/ln_1/scale",), (), ["h_0/ln_1/scale", "vectors have no rank", "delta.full"]),
        ((), (), ["delta is empty"]),
        ((".*", ), (), ["delta.low_rank names", "vectors have no rank"]),
        ((), ("h_0/" + "(" * 10**4,), ["delta.full", "not a regular expression"]),
        ((), ("\n\x1b2J",), ["delta.full", r"\\n\\x1b", "matches no parameter"]),
    ],
)  # fmt: skip
def test_bad_rules(low_rank, full, words):
    with refused(*words):
        init(low_rank, full)


def test_a_rank_that_no_matrix_has():
    wte = jax.ShapeDtypeStruct((41, 16), jnp.float32)
    kernel = jax.ShapeDtypeStruct((48, 16), jnp.float32)
    shapes = {"wte": {"embedding": wte}, "h_0": {"c_attn": {"kernel": kernel}}}

    def changes(rank, low_rank, full=()):
        delta = LoRA(rank, 1.0, low_rank, full).init(jax.random.key(0), shapes)
        return {path: set(change) for path, change in delta.items()}

    paths = ("wte/embedding", "h_0/c_attn/kernel")
    assert changes(16, (".*",)) == {path: {"a", "b"} for path in paths}
    with refused("delta.rank = 17", "choose at most 16"):
        changes(17, (".*",))
    free = {path: {"full"} for path in paths}  # which has no rank
    assert changes(17, (), (".*",)) == changes(17, (".*",), (".*",)) == free


def test_a_delta_of_another_base_is_refused_by_name():
    base = tiny.base_params()
    taller = LoRA(RANK, 1.0, (ATTENTION,)).init(
        jax.random.key(0), abstract_params(tiny.model(layers=2))
    )
    with refused("h_1/attn/c_attn/kernel", "another base"):
        ANY.merge(base, taller)
    wider = {**base, "wte": {"embedding": jnp.zeros((50, 16))}}
    for rules in (RULES["everything"], ((), ("wte/embedding",))):
        with refused("wte/embedding", r"\(41, 16\)", r"\(50, 16\)", "another base"):
            ANY.merge(wider, init(*rules))

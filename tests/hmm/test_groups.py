"""However a vocabulary is divided, every token keeps its class."""

import numpy as np
import pytest

from dinado_jax.hmm.groups import BLOCK, blocks, divide

V, STOP = 3000, 7


def classes(seed, prompts):
    """Two large classes that all prompts share, and some tokens of each prompt's own."""
    rng = np.random.default_rng(seed)
    shared, found = rng.integers(0, 2, V), []
    for number in range(prompts):
        own = shared + number % 2  # numbered otherwise
        special = rng.choice(V, 20 + number, replace=False)
        own[special] = rng.integers(3, 9, len(special))
        found.append(own)
    return found


@pytest.mark.parametrize("prompts", [1, 5])
def test_groups_and_exceptions_give_each_token_its_class(prompts):
    given = classes(0, prompts)
    groups = divide(given, [STOP])
    for number, own in enumerate(given):
        found = groups.classes[number][groups.of_token]
        found[groups.exceptions[number]] = groups.exception_classes[number]
        others = np.arange(V) != STOP
        np.testing.assert_array_equal(found[others], own[others])
    assert groups.exceptions.shape[1] <= 20 + prompts


def test_blocks_hold_every_token_once():
    groups = divide(classes(1, 4), [STOP])
    layout, of_block, place = blocks(groups)
    assert layout.shape == (len(of_block), BLOCK)
    np.testing.assert_array_equal(layout.reshape(-1)[place], np.arange(V))
    assert (layout < V).sum() == V
    for row, group in zip(layout, of_block):
        assert (groups.of_token[row[row < V]] == group).all()

"""However a vocabulary is divided, every token keeps its class."""

import numpy as np
import pytest

from dinado_jax.hmm.groups import columns, divide

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


def test_each_token_has_a_column_in_its_group_and_those_that_are_equal_rows_share_it():
    groups = divide(classes(1, 4), [STOP])
    equal_rows = np.random.default_rng(2).random(V) < 0.3
    kept, place = columns(groups, equal_rows)
    for group, tokens in enumerate(kept):
        assert (groups.of_token[tokens] == group).all()
    np.testing.assert_array_equal(groups.of_token[np.concatenate(kept)[place]], groups.of_token)
    own = np.flatnonzero(~equal_rows)
    np.testing.assert_array_equal(np.concatenate(kept)[place[own]], own)
    assert equal_rows[np.concatenate(kept)[place[equal_rows]]].all()
    assert [equal_rows[tokens].sum() for tokens in kept] == [1] * len(kept)

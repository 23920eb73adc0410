"""Long rows in windows."""

import numpy as np
from support.refusal import error_of

from dinado_jax.data.sequences import windows


def test_each_token_is_a_target_once():
    """Prompts of tokens below 10; a window of the middle begins with the last token before it."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 9, n).tolist() for n in (1, 2, 1, 3, 1)]
    targets = [rng.integers(10, 99, n).tolist() for n in (1, 9, 4, 7, 12)]
    made = windows(prompts, targets, 0, 5)
    assert made.tokens.shape[1] == made.length.max() == 5
    found, begun = [], []
    for row, start, end in zip(made.tokens.tolist(), made.prompt_length, made.length):
        if row[0] < 10:
            begun.append(row[:start])
        else:
            assert row[:start] == found[-1:]
        found += row[start:end]
        assert not any(row[end:])
    assert begun == prompts
    assert found == [token for target in targets for token in target]


def test_a_prompt_without_room():
    said = error_of(windows, [[1, 2, 3]], [[4]], 0, 3)
    assert "3 tokens before the text leave no room in 3: raise sft.max_length" in said

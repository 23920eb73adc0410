"""How long a classifier is trained."""

import numpy as np
import pytest
from support import tiny

from dinado_jax.classifiers.bag import empty_bag
from dinado_jax.classifiers.training import train_head
from dinado_jax.data.sequences import Sequences

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_few_texts_are_learned_for_200_steps_after_the_last_improvement(capsys):
    """The other texts have the opposite labels, so that nothing is better than no correction."""
    steps, batch = 20, 32  # of an epoch
    count = steps * batch
    tokens = np.random.default_rng(0).integers(1, tiny.VOCABULARY, (count, 4)).astype(np.int32)
    rows = Sequences(tokens, np.ones(count, np.int32), np.full(count, 4, np.int32))
    labels = tokens[:, -1] % 2 == 0
    bags = empty_bag(tiny.VOCABULARY), np.zeros(tokens.shape, np.float32)
    given = tiny.model(), tiny.base_params(), (rows, rows), (labels, ~labels), bags
    params = train_head(*given, 100, 0)
    epochs = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 200 / steps
    assert not params["head"]["c_proj"]["kernel"].any()

"""How long a classifier is trained."""

import numpy as np
import pytest
from support import tiny

from dinado_jax.classifiers.training import train_head
from dinado_jax.data.sequences import Sequences

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_few_texts_are_learned_for_200_steps_after_the_last_improvement(capsys):
    """The other texts have the opposite labels, so that only the first epoch can be the best."""
    steps, batch = 20, 32  # of an epoch
    count = steps * batch
    tokens = np.random.default_rng(0).integers(1, tiny.VOCABULARY, (count, 4)).astype(np.int32)
    rows = Sequences(tokens, np.ones(count, np.int32), np.full(count, 4, np.int32))
    labels = tokens[:, -1] % 2 == 0
    train_head(tiny.model(), tiny.base_params(), (rows, rows), (labels, ~labels), 100, 0)
    epochs = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 1 + 200 / steps

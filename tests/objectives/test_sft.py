"""The likelihood of targets against float64."""

import jax
import numpy as np
import pytest
from support import objectives, tiny

from dinado_jax.objectives import sft

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_likelihood_against_the_reference():
    batch, base = objectives.rows(objectives.MIXED), tiny.base_params()
    model = objectives.CONTROL.model
    out = jax.jit(sft.likelihood, static_argnums=(0, 1))(model, None, base, None, batch)["nll"]
    logits = np.float64(objectives.whole(tiny.fresh_params(), batch.tokens)[0])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = [
        -log_p[b, t - 1, batch.tokens[b, t]]
        for b in range(objectives.B)
        for t in range(batch.prompt_length[b], batch.length[b])
    ]
    assert float(out.sum) == pytest.approx(sum(targets), rel=1e-5)
    assert float(out.weight) == len(targets)

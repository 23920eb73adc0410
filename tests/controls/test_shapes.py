"""The parameters of every kind of control, counted from its description."""

import jax
import numpy as np
import pytest

from dinado_jax.controls.make import make_control
from dinado_jax.models.architectures import new_model
from dinado_jax.models.params import abstract_params
from dinado_jax.stages.settings import load_config

V, T, D = 301, 20, 12
BASE = f"base.vocab_size={V} base.n_positions={T} base.n_embd={D} base.n_layer=2 base.n_head=3"
BLOCK = 12 * D**2 + 13 * D  # of a GPT-2
NORM = D * 4 * D + 4 * D + 4 * D + 1
WHOLE = V * D + T * D + 2 * BLOCK + 2 * D
VECTORS = 2 * 13 * D + 2 * D  # LayerNorms and biases of two blocks and the last LayerNorm
MATRICES = [(D, 3 * D), (D, D), (D, 4 * D), (4 * D, D)]


def low_rank(rank, layers=2):
    return layers * sum(rank * (rows + columns) for rows, columns in MATRICES)


RANK = "delta.rank=5"
CASES = {
    f"control.kind=merge {RANK}": low_rank(5) + VECTORS + NORM,
    "control.kind=merge delta.rank=3 delta.full=ln_f/bias": low_rank(3) + D + NORM,
    r"delta.rank=3 delta.low_rank=h_1/mlp/c_\w+/kernel delta.full=wpe/embedding": (
        3 * 10 * D + T * D + NORM
    ),
    "control.kind=merge delta.full=.*": WHOLE + NORM,
    "control.kind=soft control.layers=3": WHOLE + BLOCK + V * D + NORM,
    "control.kind=soft control.layers=1": WHOLE - BLOCK + V * D + NORM,
    "control.kind=soft control.trunk=copy": WHOLE + V * D + NORM,
    f"control.kind=soft control.trunk=low_rank {RANK}": low_rank(5) + VECTORS + V * D + NORM,
    "control.kind=nado control.layers=3": D * D + D + T * D + 3 * BLOCK + 2 * D + V * D,
    "control.kind=nado control.layers=1": D * D + D + T * D + BLOCK + 2 * D + V * D,
    f"control.kind=hard {RANK}": low_rank(5) + VECTORS + NORM,
    f"control.kind=hard control.form=projected {RANK}": low_rank(5) + VECTORS + NORM,
    "control.kind=hard control.direction=nado control.layers=1": (
        D * D + D + T * D + BLOCK + 2 * D + V * D + NORM
    ),
    "control.kind=hard control.direction=soft control.layers=3": WHOLE + BLOCK + V * D + NORM,
    f"{RANK} control.norm=trunk control.norm_layers=3": (
        low_rank(5) + VECTORS + D * D + D + T * D + 3 * BLOCK + 2 * D + D + 1
    ),
}


def made(case):
    config = load_config(None, [*BASE.split(), *case.split()])
    model = new_model(config.base)
    control = make_control(config, model)
    params = abstract_params(model)
    return control, jax.eval_shape(lambda: control.init(jax.random.key(0), params, 0.3))


@pytest.mark.parametrize("case", CASES)
def test_number_of_parameters(case):
    _, params = made(case)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params)) == CASES[case]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}
    assert ("norm" in params) == ("kind=nado" not in case)


@pytest.mark.parametrize(
    "case, form",
    [
        ("control.kind=merge", "split"),
        ("control.kind=soft", "split"),
        ("control.kind=nado", "split"),
        ("control.kind=hard", "clamped"),
        ("control.kind=hard control.form=projected", "projected"),
        ("control.kind=hard control.direction=nado", "clamped"),
    ],
)
def test_forms(case, form):
    control, _ = made(f"{case} delta.rank=2" if "nado" not in case and "soft" not in case else case)
    assert control.form == form
    assert control.recursive == (form != "split")
    assert control.entangled == (case == "control.kind=nado")
    assert control.single_pass == (case in ("control.kind=merge", "control.kind=hard"))

"""A world small enough to enumerate, every kind of control in it, and slow exact arithmetic.

V tokens, N new ones after a prompt; rows are all V^N continuations, in the order of `product`, all
as wide as the context, so that every prompt's compile as one.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np
from scipy.stats import chi2

from dinado_jax.config import schema
from dinado_jax.controls.control import Control
from dinado_jax.controls.make import make_control
from dinado_jax.data.batch import Batch
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.params import init_params
from dinado_jax.models.protocol import BaseModel
from support import tiny

V, N, EOS, WIDTH = 5, 3, 0, 8
MODEL = GPT2(GPT2Config(vocab_size=V, n_positions=WIDTH, n_embd=8, n_layer=1, n_head=2))
LLAMA = Llama(
    LlamaConfig(
        vocab_size=V,
        max_position_embeddings=WIDTH,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=2,
    )
)
# Every matrix, its two tables included, and every vector.
LLAMA_DELTA = schema.Delta(
    rank=3, alpha=6.0, low_rank=("default", "embed_tokens/embedding", "lm_head/embedding")
)
PROMPTS = ([0, 3], [0], [0, 2, 4, 1])
KINDS = {
    "nado": {"kind": "nado"},
    "soft-small": {"kind": "soft", "trunk": "small"},
    "soft-copy": {"kind": "soft", "trunk": "copy"},
    "soft-low_rank": {"kind": "soft", "trunk": "low_rank"},
    "merge": {"kind": "merge"},
    **{
        f"{form}-{direction}": {"kind": "hard", "form": form, "direction": direction}
        for form in ("clamped", "projected")
        for direction in ("merge", "soft", "nado")
    },
    "soft-norm_of_layers": {"kind": "soft", "trunk": "low_rank", "norm": "trunk"},
    "projected-norm_of_layers": {"kind": "hard", "form": "projected", "norm": "trunk"},
}
# Every direction, norm and form once; the rest differ from these in what others of them have.
_OTHERS = ("soft-copy", "soft-small", "clamped-soft", "projected-nado", "projected-soft")
DISTINCT = [kind for kind in KINDS if kind not in _OTHERS]
# One of each direction and one recursive form, of a base with a head of its own.
LLAMA_KINDS = [
    f"llama {kind}"
    for kind in ("nado", "soft-low_rank", "merge", "projected-merge", "soft-norm_of_layers")
]
CONTINUATIONS = np.array(list(itertools.product(range(V), repeat=N)), np.int32)


@functools.cache
def base_params(model: BaseModel = MODEL) -> dict:
    with jax.ensure_compile_time_eval():  # the first call may come from a function being traced
        return tiny.noisy(init_params(model, seed=0), scale=0.3)


def settings(kind: str) -> schema.Config:
    """Of a kind in KINDS or in LLAMA_KINDS."""
    name = kind.removeprefix("llama ")
    delta = tiny.EVERYTHING if name == kind else LLAMA_DELTA
    return schema.Config(
        control=schema.Control(layers=1, norm_layers=1, **KINDS[name]), delta=delta
    )


@functools.cache
def control(kind: str) -> Control:
    return make_control(settings(kind), LLAMA if kind in LLAMA_KINDS else MODEL)


@functools.cache
def fresh(kind: str) -> dict:
    which = control(kind)
    with jax.ensure_compile_time_eval():
        return which.init(jax.random.key(1), base_params(which.model), tiny.SUCCESS_RATE)


def params(kind: str, scale: float = 0.3, seed: int = 0) -> dict:
    return tiny.noisy(fresh(kind), scale, seed)


def batch(prompt) -> Batch:
    """Every continuation of a prompt."""
    rows, end = len(CONTINUATIONS), len(prompt) + N
    tokens = np.zeros((rows, WIDTH), np.int32)
    tokens[:, : len(prompt)], tokens[:, len(prompt) : end] = prompt, CONTINUATIONS
    return Batch(
        tokens=tokens,
        prompt_length=np.full(rows, len(prompt), np.int32),
        length=np.full(rows, end, np.int32),
    )


def targets(prompt) -> slice:
    """The columns that say what follows: of arrays [rows, WIDTH] or [rows, WIDTH - 1]."""
    return slice(len(prompt) - 1, len(prompt) - 1 + N)


def log_softmax(scores):
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@functools.partial(jax.jit, static_argnums=0)
def _logits(control, base_params, params, tokens):
    base = control.model.apply({"params": base_params}, tokens)
    out = control.direction.forward(base_params, params["direction"], base, tokens)
    states = base.hidden if control.norm_reads_base else out.hidden
    log_beta = None
    if "norm" in params:
        features, _ = control.norm.features(params["norm"], states)
        log_beta = jax.nn.log_sigmoid(control.norm.logit(params["norm"], features))
    return base.logits, out.logits, log_beta


def exact(control, base_params, params, prompt):
    """(log p [rows, N, V], log V [rows, N], log R of each next token [rows, N, V]) in float64 from
    the formulas of the method, one full pass and no cache."""
    # The form has no part in the logits: one program for all.
    control_of_logits = dataclasses.replace(control, form="split")
    given = _logits(control_of_logits, base_params, params, batch(prompt).tokens)
    given = (None if x is None else np.float64(x)[:, targets(prompt)] for x in given)
    base, own, beta = given
    p = np.exp(log_softmax(base))
    r = {
        "policy": log_softmax(own) - np.log(p),
        "plain": own,
        "sigmoid": -np.logaddexp(0, -own),
    }[control.direction.link]
    value, after = np.zeros(p.shape[:2]), np.zeros(p.shape)
    previous = None if beta is None else np.exp(beta[:, 0])
    for t in range(N):
        below = np.exp(r[:, t] - r[:, t].max(-1, keepdims=True))
        total = (p[:, t] * below).sum(-1)
        if control.form == "split":
            top = np.exp(r[:, t].max(-1)) if control.entangled else np.exp(beta[:, t])
            after[:, t] = top[:, None] * below
            value[:, t] = top * total
        elif control.form == "clamped":
            after[:, t] = (previous / total)[:, None] * below
            value[:, t] = previous
        else:
            a = np.maximum(0, (previous - total) / (1 - total))[:, None]
            d = a + (1 - a) * below
            after[:, t] = (previous / (p[:, t] * d).sum(-1))[:, None] * d
            value[:, t] = previous
        previous = np.take_along_axis(after[:, t], CONTINUATIONS[:, t, None], 1)[:, 0]
    return np.log(p), np.log(value), np.log(after)


def tilted(log_r, log_v, strength=1.0, target_rate=1.0, reject=0.0):
    """What a control adds to log p, for the whole table at once."""
    R, start = np.exp(log_r), np.exp(log_v[:, :1, None])
    if target_rate < 1:
        beyond = np.maximum(1 - R, 1e-6)
        R = R * target_rate / start + beyond * (1 - target_rate) / (1 - start)
    with np.errstate(divide="ignore"):
        kept = log_r >= log_v[..., None] + np.log(reject)
    return np.where(kept, strength * np.log(R), -np.inf)


def sequence_probs(log_q) -> dict:
    """{outcome, up to and with its eos: probability} from the table of next tokens."""
    drawn = np.take_along_axis(log_q, CONTINUATIONS[..., None], 2)[..., 0]
    out = {}
    for tokens, steps in zip(CONTINUATIONS.tolist(), drawn):
        length = tokens.index(EOS) + 1 if EOS in tokens else N
        out[tuple(tokens[:length])] = np.exp(steps[:length].sum())
    return out


def p_value(drawn: list, probs: dict) -> float:
    """Of Pearson's chi-square; outcomes expected fewer than ten times are counted together."""
    number = {outcome: i for i, outcome in enumerate(probs)}
    return p_value_of_numbers([number[outcome] for outcome in drawn], list(probs.values()))


def outcome_numbers(tokens, probs: dict) -> np.ndarray:
    """Which of the outcomes each row [rows, N] is, up to and with its eos."""
    scale = (V + 1) ** np.arange(N)
    codes = np.array([sum((t + 1) * s for t, s in zip(outcome, scale)) for outcome in probs])
    ended = np.cumsum(tokens == EOS, axis=1) - (tokens == EOS) > 0
    rows = (np.where(ended, 0, tokens + 1) * scale).sum(1)
    order = np.argsort(codes)
    place = np.searchsorted(codes, rows, sorter=order)
    np.testing.assert_array_equal(codes[order[place]], rows)
    return order[place]


def p_value_of_numbers(numbers, probs) -> float:
    """The same of numbers of outcomes and their probabilities."""
    found = np.bincount(numbers, minlength=len(probs))
    expected = len(numbers) * np.array(probs)
    assert not found[expected == 0].any()
    rare = expected < 10
    found, expected = (np.append(x[~rare], x[rare].sum()) for x in (found, expected))
    if expected[-1] < 1:
        found, expected = found[:-1], expected[:-1]
    return float(chi2.sf(((found - expected) ** 2 / expected).sum(), len(expected) - 1))

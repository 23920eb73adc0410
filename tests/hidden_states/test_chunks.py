"""Reading in chunks with updates of the cache: what is scored, by which gradient, and when."""

import functools

import jax
import numpy as np
import pytest
from support import by_hand, tiny

from dinado_jax.hidden_states.chunks import (
    Windows,
    gradient_of_chunk,
    read_in_chunks,
    score_chunk,
)
from dinado_jax.models.cache import empty_prompts
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.params import init_params

pytestmark = pytest.mark.usefixtures("compiled_quickly")
GPT2_MODEL = GPT2(GPT2Config(vocab_size=11, n_positions=12, n_embd=16, n_layer=2, n_head=4))
LLAMA = Llama(
    LlamaConfig(
        vocab_size=11,
        max_position_embeddings=12,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
    )
)
B, S, CHUNK, STEP = 2, 12, 4, 0.05
IDS = np.random.default_rng(0).integers(0, 11, (B, S + 1)).astype(np.int32)


def windows(ids):
    return Windows(ids[:, :-1], ids[:, 1:], np.ones((B, S), bool))


@functools.cache
def params_of(model):
    return tiny.noisy(init_params(model, seed=0), 0.2)


@pytest.fixture(params=[GPT2_MODEL, LLAMA], ids=["gpt2", "llama"])
def read(request):
    """A function of (ids, step size) to the scores [B, S]."""

    def read(ids, step_size):
        parts = (request.param, params_of(request.param), windows(ids), step_size)
        return np.asarray(read_in_chunks(*parts, chunk=CHUNK)[0])

    read.model = request.param
    return read


def test_without_updates_chunks_are_scored_as_the_whole(read):
    out = read.model.apply({"params": params_of(read.model)}, IDS[:, :-1])
    wanted = np.take_along_axis(jax.nn.log_softmax(out.logits), IDS[:, 1:, None], 2)[..., 0]
    plain = read(IDS, None)
    np.testing.assert_allclose(plain, wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(read(IDS, 0.0), plain)


def test_updates_change_what_is_scored_after_them(read):
    plain, updated = read(IDS, 0.0), read(IDS, STEP)
    np.testing.assert_array_equal(updated[:, :CHUNK], plain[:, :CHUNK])
    assert (np.abs(updated - plain)[:, CHUNK:] > 1e-6).all()


@pytest.mark.parametrize("first", [4, 6, 8])
def test_no_score_depends_on_a_later_token(read, first):
    """Bit for bit, with tokens changed from `first` on, at the border of a chunk and within."""
    changed = IDS.copy()
    changed[:, first:] = (changed[:, first:] + 1) % 11
    before, after = read(IDS, STEP), read(changed, STEP)
    np.testing.assert_array_equal(after[:, : first - 1], before[:, : first - 1])
    assert (after[:, first - 1 :] != before[:, first - 1 :]).all()


def test_windows_do_not_change_each_other(read):
    other = np.stack([IDS[0], IDS[0, ::-1]])
    np.testing.assert_allclose(read(other, STEP)[0], read(IDS, STEP)[0], rtol=0, atol=1e-5)


def test_padding_after_the_text_updates_nothing():
    """Neither by momentum: the cache is that of the chunks with text."""
    params = params_of(GPT2_MODEL)
    counted = np.broadcast_to(np.arange(S) < CHUNK, (B, S))
    _, cache = read_in_chunks(
        GPT2_MODEL, params, windows(IDS)._replace(counted=counted), STEP, chunk=CHUNK
    )
    short = Windows(*(x[:, :CHUNK] for x in windows(IDS)))
    _, wanted = read_in_chunks(GPT2_MODEL, params, short, STEP, chunk=CHUNK)
    for found, x in zip(jax.tree.leaves(cache.prompt), jax.tree.leaves(wanted.prompt)):
        np.testing.assert_allclose(found[:, :CHUNK], x, rtol=0, atol=1e-6)


class WithOffsets(by_hand.Model):
    """A GPT-2 in float64 whose keys and values are those of `kept` in the slots that it has, and
    moved by `offsets`; both of each layer, [2, B, H, slots, K]."""

    kept: dict
    offsets: dict

    def _attention(self, name, x):
        B, T, D = x.shape
        q, k, v = (
            part.reshape(B, T, self.heads, -1).transpose(0, 2, 1, 3)
            for part in np.split(self._linear(name + "c_attn", x), 3, -1)
        )
        kv = np.stack([k, v])
        kept = self.kept.get(name, kv[:, :, :, :0])
        kv[:, :, :, : kept.shape[3]] = kept
        self.seen[name] = kv
        k, v = kv + self.offsets.get(name, 0.0)
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(D // self.heads)
        scores = np.where(np.tril(np.ones((T, T), bool)), scores, -np.inf)
        out = (np.exp(by_hand.log_softmax(scores)) @ v).transpose(0, 2, 1, 3).reshape(B, T, D)
        return self._linear(name + "c_proj", out)

    def nats(self, ids, chunk, kept=None, offsets=None):
        """Of the last `chunk` targets of ids."""
        self.kept, self.offsets, self.seen = kept or {}, offsets or {}, {}
        log_p = np.take_along_axis(self(ids[:, :-1])[1], ids[:, 1:, None], 2)[..., 0]
        return -log_p[:, -chunk:].sum()


def test_the_gradient_is_that_of_finite_differences():
    """In float64, for the keys and the values of each layer, cached ones and the chunk's own."""
    model, params = GPT2_MODEL, params_of(GPT2_MODEL)
    shapes = jax.eval_shape(model.apply, {"params": params}, IDS[:, :CHUNK]).cache
    first, second = (
        Windows(*(x[:, start : start + CHUNK] for x in windows(IDS))) for start in (0, CHUNK)
    )
    _, cache = score_chunk(model, params, first, empty_prompts(shapes, S))
    gradient, scores, _ = jax.jit(functools.partial(gradient_of_chunk, model))(
        params, second, cache
    )
    end, rng, ids = 2 * CHUNK, np.random.default_rng(0), IDS[:, : 2 * CHUNK + 1]
    by_numpy = WithOffsets.of_tree(params, heads=4)
    by_numpy.nats(ids[:, : CHUNK + 1], CHUNK)
    kept = by_numpy.seen
    assert by_numpy.nats(ids, CHUNK, kept) == pytest.approx(-float(scores.sum()), abs=1e-4)
    for layer, found in enumerate(gradient):
        name = f"h.{layer}.attn."
        for which, of_all in enumerate(found):
            assert not np.asarray(of_all[:, end:]).any()
            of_rows = np.asarray(of_all, np.float64)[:, :end].reshape(B, 4, end, -1)
            for slots in (slice(0, CHUNK), slice(CHUNK, end)):
                offset = np.zeros((2, *of_rows.shape))
                offset[which, :, :, slots] = rng.normal(size=of_rows[:, :, slots].shape)
                ends = [by_numpy.nats(ids, CHUNK, kept, {name: h * offset}) for h in (1e-5, -1e-5)]
                wanted = (ends[0] - ends[1]) / 2e-5
                product = (of_rows * offset[which]).sum()
                assert product == pytest.approx(wanted, rel=1e-3, abs=1e-4), (layer, which, slots)
                assert abs(wanted) > 1e-3

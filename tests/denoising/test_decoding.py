"""Decoding: one scan, the same for a prompt whatever is around it; and the model it begins as."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import denoising
from support.folders import refused

from dinado_jax.data.sequences import pad
from dinado_jax.denoising.data import source_rows
from dinado_jax.denoising.decoding import choose_lengths, denoise
from dinado_jax.denoising.model import MaskedLM, Text, from_masked
from dinado_jax.denoising.settings import Decoding, Parts
from dinado_jax.denoising.tokens import codec_of, vocabulary_of

pytestmark = pytest.mark.usefixtures("compiled_quickly")

HOW = Decoding(steps=4, temperature=0.8, share=0.4, lengths=2, samples=2)
PROMPTS = ["a dog", "the dog sees it", "go", "run to the fox"]


def sources(width=None):
    rows = source_rows(codec_of(denoising.masked()), PROMPTS)
    return pad(rows, 0, width), np.array([len(row) for row in rows], np.int32)


def write(rows=slice(None), how=HOW, source_width=None, width=14, seed=0):
    """The lengths [B, K], tokens [B, K, T] and log-probabilities [N, B, K]."""
    denoiser, params = denoising.denoiser()
    source, length = sources(source_width)
    keys = jax.random.split(jax.random.key(seed), len(source))
    found = choose_lengths(denoiser, how, params, source[rows], length[rows])
    drawn = denoise(denoiser, how, width, params, found, keys[rows])
    K = how.candidates
    tokens = np.asarray(drawn.tokens).reshape(-1, K, width)
    return (
        np.asarray(found.lengths),
        tokens,
        np.asarray(drawn.log_probs).reshape(-1, len(tokens), K),
    )


@pytest.fixture(scope="module")
def written():
    return write()


def test_texts_have_their_lengths_and_ends(written):
    lengths, tokens, log_probs = written
    vocabulary = denoising.denoiser()[0].vocabulary
    assert lengths.shape == (4, 4) and (lengths[:, ::2] == lengths[:, 1::2]).all()
    assert (lengths[:, 0] != lengths[:, 2]).all() and lengths.min() >= 1 and lengths.max() <= 12
    assert log_probs.shape == (4, 4, 4) and (log_probs < 0).all()
    for length, row in zip(lengths.reshape(-1), tokens.reshape(-1, 14)):
        assert row[0] == vocabulary.begin_id and row[length + 1] == vocabulary.end_id
        assert (row[1 : length + 1] >= 4).all() and (row[length + 2 :] == vocabulary.pad_id).all()
    assert len({row.tobytes() for row in tokens.reshape(-1, 14)}) > 8


def test_a_key_decides(written):
    chex.assert_trees_all_equal(write(), written)
    assert (write(seed=1)[1] != written[1]).any()


@pytest.mark.parametrize("change", [{"rows": slice(1, 2)}, {"source_width": 16}, {"width": 13}])
def test_neither_other_rows_nor_padding_matter(written, change):
    lengths, tokens, log_probs = write(**change)
    rows, T = change.get("rows", slice(None)), tokens.shape[-1]
    np.testing.assert_array_equal(lengths, written[0][rows])
    inside = np.minimum(lengths + 2, T)[..., None] > np.arange(T)
    np.testing.assert_array_equal(tokens[inside], written[1][rows][..., :T][inside])
    np.testing.assert_allclose(log_probs, written[2][:, rows], rtol=2e-4)


def test_all_steps_are_one_scan():
    """Twice as many steps are the same program, whose only loop over them is a scan."""
    denoiser, params = denoising.denoiser()
    source, length = sources()
    keys = jax.random.split(jax.random.key(0), len(source))
    found = jax.eval_shape(functools.partial(choose_lengths, denoiser, HOW), params, source, length)

    def program(steps):
        how = dataclasses.replace(HOW, steps=steps)
        own = functools.partial(denoise, denoiser, how, 14)
        (call,) = jax.make_jaxpr(own)(params, found, keys).eqns
        return call.params["jaxpr"].eqns

    few, many = program(4), program(8)
    lengths = [eqn.params["length"] for eqn in few if eqn.primitive.name == "scan"]
    assert lengths.count(4) == 1 and len(few) == len(many)
    assert not [eqn for eqn in few if eqn.primitive.name == "while"]


@pytest.mark.parametrize("order", ["confidence", "random"])
def test_what_each_step_draws(order):
    """The first of three steps draws all, the second a quarter, rounded up, and the third leaves
    the likeliest tokens, whose log-probabilities it sums."""
    denoiser, params = denoising.denoiser()
    source, length = sources()
    keys = jax.random.split(jax.random.key(0), len(source))
    how = Decoding(steps=3, temperature=5.0, share=0.25, order=order, lengths=1)
    given = []

    def watched(params, tokens, total, context):
        jax.debug.callback(lambda x: given.append(np.array(x)), tokens)
        return denoiser.logits(params, tokens, total, context)

    class Watched(type(denoiser)):
        def logits(self, *args):
            return watched(*args)

    own = Watched(**{f.name: getattr(denoiser, f.name) for f in dataclasses.fields(denoiser)})
    found = choose_lengths(own, how, params, source, length)
    drawn = jax.device_get(denoise(own, how, 14, params, found, keys))
    jax.effects_barrier()
    start, first, second = given
    lengths = np.asarray(found.lengths)[:, 0]
    changed = (second != first).sum(1)
    assert (changed <= np.ceil(lengths / 4)).all() and changed.any()
    assert (first != start).sum() > lengths.sum() / 2
    logits = jax.jit(denoiser.logits)(params, second, lengths + 2, found.context)
    text = (np.arange(14)[None] > 0) & (np.arange(14)[None] <= lengths[:, None])
    np.testing.assert_array_equal(drawn.tokens, np.where(text, logits.argmax(-1), second))
    sums = np.where(text, jax.nn.log_softmax(logits).max(-1), 0).sum(1)
    np.testing.assert_allclose(sums, drawn.log_probs[-1], rtol=1e-4)


def test_at_first_it_is_the_masked_language_model():
    made = denoising.masked(2)
    vocabulary = vocabulary_of(made)
    source, length = sources()
    model = MaskedLM(made.model.config, vocabulary)
    wanted = model.logits(made.params, Text(source, length))
    for layers in (None, 2):
        denoiser, params = from_masked(made, Parts(decoder_layers=layers, encoder_layers=1))
        for shown in (source, source[::-1]):
            context = denoiser.encode(params, shown, length)
            found = denoiser.logits(params, source, length, context)
            inside = np.arange(source.shape[1])[None] < length[:, None]
            np.testing.assert_allclose(found[inside], wanted[inside], rtol=1e-5, atol=1e-5)
        uniform = denoiser.length_log_probs(params, context)
        np.testing.assert_allclose(uniform, -np.log(14), rtol=1e-5)
    # One trained value makes the source matter.
    cross = params["decoder"]["layer_0"]["cross_attention"]["output"]
    cross["kernel"] = cross["kernel"] + jnp.eye(32)
    found = [
        denoiser.logits(params, source, length, denoiser.encode(params, shown, length))
        for shown in (source, source[::-1])
    ]
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_fewer_layers_are_the_first_ones():
    made = denoising.masked(2)
    denoiser, params = from_masked(made, Parts(encoder_layers=1))
    assert denoiser.encoder.num_hidden_layers == 1 and denoiser.decoder.num_hidden_layers == 2
    assert "layer_1" not in params["encoder"] and "head" not in params["encoder"]
    chex.assert_trees_all_equal(params["encoder"]["layer_0"], made.params["layer_0"])


@pytest.mark.parametrize(
    "parts, said",
    [
        ({"encoder_layers": 3}, "encoder_layers = 3: the masked language model has 2"),
        ({"decoder_layers": 9}, "decoder_layers = 9: the masked language model has 2"),
        ({"encoder_layers": 0}, "encoder_layers = 0: it must be at least 1"),
        ({"max_length": 15}, "max_length = 15: the model has positions for texts of 14 tokens"),
        ({"max_length": 0}, "max_length = 0: it must be at least 1"),
    ],
)
def test_parts_that_the_model_lacks_are_refused(parts, said):
    refused(said, lambda: from_masked(denoising.masked(2), Parts(**parts)))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"steps": 0}, "steps = 0: it must be 1 to 10,000"),
        ({"lengths": 1.5}, "lengths = 1.5: it must be an integer"),
        ({"temperature": -1.0}, "temperature = -1.0: it must be 0"),
        ({"share": 0.0}, r"share = 0.0: it must be in \(0, 1\]"),
        ({"order": "best"}, "order = 'best': give one of confidence, random"),
    ],
)
def test_settings_of_decoding_out_of_range_are_refused(change, said):
    refused(said, lambda: Decoding(**change))

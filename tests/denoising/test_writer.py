"""Training, what is written, files, oracles, and bad input."""

import copy
import dataclasses
import json
import shutil

import chex
import jax
import numpy as np
import pytest
from support import denoising, word_base
from support.folders import refused
from tokenizers import normalizers, processors

import dinado_jax
from dinado_jax import recurrence
from dinado_jax.config.schema import Parallel
from dinado_jax.denoising.data import pair_rows
from dinado_jax.denoising.pretraining import pretrain
from dinado_jax.denoising.settings import Decoding, Parts
from dinado_jax.denoising.tokens import codec_of
from dinado_jax.denoising.training import train_denoiser
from dinado_jax.denoising.writer import fit_writer, load_writer
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.models.bert_checkpoint import load_masked
from dinado_jax.models.params import by_path
from dinado_jax.tasks.protocol import Example
from dinado_jax.training.settings import Training
from dinado_jax.training.standalone import plan_of

pytestmark = pytest.mark.usefixtures("compiled_quickly")

HOW = Training(steps=150, batch=8, learning_rate=5e-3, warmup=10, save_every=50)
PARTS = Parts(max_length=6)
PROMPTS, TEXTS = list(denoising.PAIRS), list(denoising.PAIRS.values())


def fit(folder, how=HOW, parts=PARTS, examples=denoising.EXAMPLES, **more):
    return fit_writer(denoising.masked(), examples, how, parts, folder=folder, **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    return fit(folder), folder


def test_it_writes_back_what_it_was_trained_on(trained):
    written = trained[0].write(PROMPTS, Decoding(steps=4, lengths=1))
    assert [one.text for one in written] == TEXTS
    assert [one.prompt for one in written] == PROMPTS
    for one in written:
        (best,) = one.candidates
        assert (
            best.score == pytest.approx(best.log_probs[-1] / len(best.tokens)) and best.score > -1
        )


def test_a_stopped_training_continues_bit_for_bit(trained, tmp_path):
    writer, folder = trained
    shutil.copytree(folder, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "150")
    chex.assert_trees_all_equal(fit(tmp_path / "again").params, writer.params)
    other = dataclasses.replace(HOW, seed=1)
    refused("a training with another seed", fit, folder, other)
    refused("a training with another unrolls", lambda: fit(folder, unrolls=3))


@pytest.mark.parametrize("settings", [Parallel(fsdp=4), Parallel(mode="shard_map")], ids=str)
def test_eight_devices_train_as_one(settings, tmp_path):
    denoiser, params = denoising.denoiser(6)
    rows = denoising.pairs(denoiser)
    how = dataclasses.replace(HOW, steps=2, learning_rate=1e-3)
    one, many = (
        train_denoiser(denoiser, params, rows, how, tmp_path / name, 2, plan_of(how.batch, plan))
        for name, plan in (("one", None), ("many", make_plan(settings)))
    )
    start = by_path(jax.device_get(params))
    for path, own in by_path(one).items():
        # The gradient of a key's bias is 0: Adam makes steps of its rounding.
        if not path.endswith("key/bias"):
            moved = np.abs(own - start[path]).max()
            assert moved > 0 or "position" in path or "token_type" in path, path
            np.testing.assert_allclose(by_path(many)[path], own, atol=0.05 * moved, err_msg=path)


def test_there_and_back(trained, tmp_path):
    writer, _ = trained
    writer.save(tmp_path / "saved")
    again = load_writer(tmp_path / "saved")
    assert again.denoiser == writer.denoiser
    chex.assert_trees_all_equal(again.params, writer.params)
    how = Decoding(steps=3, lengths=2)
    assert repr(again.write(PROMPTS, how)) == repr(writer.write(PROMPTS, how))
    refused("is there already", writer.save, tmp_path / "saved")


def test_files_that_do_not_belong_together_are_refused(trained, tmp_path):
    writer, _ = trained
    refused("no denoiser.json in", load_writer, tmp_path)
    writer.save(tmp_path / "saved")

    def damaged(name, change):
        folder = shutil.copytree(tmp_path / "saved", tmp_path / "damaged", dirs_exist_ok=True)
        file = folder / name
        file.write_bytes(change(file.read_bytes()))
        return folder

    refused("is not what .* was written with", load_writer, damaged("denoiser.safetensors", _cut))
    other = damaged("tokenizer.json", lambda x: x.replace(b'"[MASK]"', b'"[MASK2]"'))
    refused("the tokenizer in .* is not what", load_writer, other)
    newer = damaged("denoiser.json", lambda x: json.dumps(json.loads(x) | {"format": 2}).encode())
    refused("has format 2", load_writer, newer)


def _cut(data):
    return data[:-4]


# What chooses among candidates


@pytest.fixture(scope="module")
def several(trained):
    return trained[0].write(PROMPTS, Decoding(steps=2, temperature=1.0, lengths=3, samples=2))


def test_candidates_are_ranked_by_their_score(several):
    for one in several:
        scores = [each.score for each in one.candidates]
        assert len(scores) == 6 and scores == sorted(scores, reverse=True)


def test_an_oracle_rejects(trained, several):
    """The best candidate that satisfies it, and the best of all where none does."""
    how = Decoding(steps=2, temperature=1.0, lengths=3, samples=2)
    judged = trained[0].write(PROMPTS, how, oracle=lambda text: len(text.split()) == 2)
    some = 0
    for before, one in zip(several, judged):
        fits = [each.text for each in before.candidates if len(each.text.split()) == 2]
        assert one.text == (fits or [before.text])[0]
        assert {each.label for each in one.candidates} <= {0.0, 1.0}
        some += one.text != before.text
    assert some

    def shares(text):
        return 1 / (1 + len(text))

    for one in trained[0].write(PROMPTS, how, oracle=shares):
        totals = [each.score + np.log(shares(each.text)) for each in one.candidates]
        assert totals == sorted(totals, reverse=True)


def test_an_autoregressive_model_reranks(trained, tmp_path):
    base = dinado_jax.load(word_base.write(tmp_path / "base"))
    how = Decoding(steps=2, temperature=1.0, lengths=2)
    plain, reranked = (trained[0].write(["go", "a fox"], how, rerank=by) for by in (None, base))
    for before, one in zip(plain, reranked):
        texts = [each.text for each in one.candidates]
        assert set(texts) == {each.text for each in before.candidates}
        nats = [float(own.sum()) for own in base.score([one.prompt] * 2, texts)]
        assert [each.score for each in one.candidates] == pytest.approx(nats, rel=1e-5)
        assert nats == sorted(nats, reverse=True)


# Pretraining


def test_pretraining_learns_continues_and_is_loaded(tmp_path):
    made, how = denoising.masked(), Training(steps=40, batch=8, learning_rate=3e-3, save_every=20)
    trained = pretrain(denoising.TEXTS, made, how, folder=tmp_path / "whole")
    log = (tmp_path / "whole" / "pretrain.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log]
    assert losses[-1] < losses[0]
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "40")
    again = pretrain(denoising.TEXTS, made, how, folder=tmp_path / "again")
    chex.assert_trees_all_equal(again.params, trained.params)
    trained.save(tmp_path / "masked")
    loaded = load_masked(tmp_path / "masked")
    chex.assert_trees_all_equal(loaded.params, trained.params)
    assert loaded.tokenizer("a dog")["input_ids"] == made.tokenizer("a dog")["input_ids"]
    refused("mask_rate = 0.0", lambda: pretrain(["a"], made, how, mask_rate=0.0))


def test_pretraining_on_pairs_learns_and_continues(tmp_path):
    made, how = denoising.masked(), Training(steps=20, batch=8, learning_rate=3e-3, save_every=10)
    trained = pretrain(denoising.EXAMPLES, made, how, mask_rate=0.5, folder=tmp_path / "whole")
    log = (tmp_path / "whole" / "pretrain.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["loss"] < json.loads(log[0])["loss"]
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "20")
    again = pretrain(denoising.EXAMPLES, made, how, mask_rate=0.5, folder=tmp_path / "whole")
    chex.assert_trees_all_equal(again.params, trained.params)
    mixed = [*denoising.EXAMPLES, "a dog"]
    refused("texts and pairs at once: give texts, or pairs", pretrain, mixed, made, how)


# Bad input


def test_what_does_not_fit_is_refused(trained, tmp_path):
    writer, _ = trained
    long = "a dog and " * 20
    refused("prompt 1 has .* tokens, the encoder has positions for 14", writer.write, ["go", long])
    refused("there are no prompts", writer.write, [])
    refused("prompts is 'one'", writer.write, "one")
    refused("has no argument 'temperature'", lambda: writer.write(["a"], temperature=1.0))
    refused("batch = 0", lambda: writer.write(["a"], batch=0))
    examples = [Example("a", (long,)), Example(long, ("a",))]
    refused("none of 2 pairs fits: sources may have 14 tokens and targets 6", fit, tmp_path, HOW,
            PARTS, examples)  # fmt: skip
    refused("there is no text to train on", pretrain, [" "], denoising.masked())
    plan = make_plan(Parallel())
    refused("batch = 12 cannot be shared by 8 devices: choose a multiple of 8",
            lambda: fit(tmp_path / "x", dataclasses.replace(HOW, batch=12), plan=plan))  # fmt: skip
    refused("mask_rate = 0", lambda: pretrain(
        ["a"], denoising.masked(), mask_rate=0, folder=tmp_path / "x"
    ))  # fmt: skip
    assert not (tmp_path / "x").exists(), "a training with other settings can begin there"
    refused("steps = 0", lambda: Training(steps=0))
    masked, letters = denoising.masked(), [Example("a dog", "ein Hund")]
    refused("references = 'ein Hund': give a tuple", fit_writer, masked, letters)
    refused("give dinado_jax.tasks.protocol.Example", fit_writer, masked, [("a", "b")])
    refused("give what load_masked returns", fit_writer, "a folder", denoising.EXAMPLES)
    refused("give dinado_jax.training.settings.Training", fit_writer, masked, denoising.EXAMPLES,
            recurrence.settings.Training())  # fmt: skip
    refused("give dinado_jax.training.settings.Training", pretrain, TEXTS, masked, {"steps": 1})
    refused("give Parts", fit_writer, masked, denoising.EXAMPLES, HOW, {"max_length": 3})
    refused("give Decoding", writer.write, ["go"], {"steps": 1})


@pytest.mark.parametrize("before", [[], ["[CLS]", "[CLS]"]], ids=["none", "two"])
def test_a_tokenizer_whose_rows_begin_otherwise_is_refused(before):
    """Positions, lengths and masks count on one token before a text."""
    masked = denoising.masked()
    tokenizer = copy.deepcopy(masked.tokenizer)
    ends = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*before, "$A", "[SEP]"]), special_tokens=ends
    )
    other = dataclasses.replace(masked, tokenizer=tokenizer)
    refused("tokens before a text, not its .CLS.", fit_writer, other, denoising.EXAMPLES)


def test_a_tokenizer_without_capitals_is_told(capsys):
    masked = denoising.masked()
    tokenizer = copy.deepcopy(masked.tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    codec = codec_of(dataclasses.replace(masked, tokenizer=tokenizer))
    pair_rows(codec, denoising.EXAMPLES, (14, 14), masked.pad_id)
    said = capsys.readouterr().err
    assert "the tokenizer changes 6 of the first 8 targets, 'ein Hund' to 'ein hund'" in said


def test_pairs_that_are_too_long_are_counted(capsys):
    examples = [*denoising.EXAMPLES, Example("a", ("a dog and " * 20,))]
    rows = denoising.pairs(denoising.denoiser(6)[0], examples)
    assert len(rows) == 8
    assert "1 of 9 pairs have more than 14 tokens in the source or 6 in" in capsys.readouterr().err

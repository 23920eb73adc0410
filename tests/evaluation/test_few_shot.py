"""Few-shot classification, and the commands that let a base read."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, word_base
from support.commands import refused
from support.refusal import error_of

import dinado_jax
from dinado_jax import cli
from dinado_jax.evaluation.few_shot import Example, classify, draw, few_shot, read_examples
from dinado_jax.hidden_states.text import Reading, score_text
from dinado_jax.language_model import save_base
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.params import init_params
from dinado_jax.models.tokenizer import train_codec

pytestmark = pytest.mark.usefixtures("compiled_quickly")
NOUNS = ("dog", "cat", "fox")
EXAMPLES = [
    Example(f"the {noun} saw {other}", str(noun != "dog")) for noun in NOUNS for other in NOUNS
]
WORDS = {"True": "fox", "False": "the dog"}  # one of several tokens, too


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    codec = train_codec(word_base.LINES, 300)
    sizes = {"n_positions": 192, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT2(GPT2Config(vocab_size=len(codec.tokenizer), **sizes))
    save_base(path, model, tiny.noisy(init_params(model, 0), 0.5), codec)
    return path


@pytest.fixture(scope="module")
def base(folder):
    return dinado_jax.load(folder)


def by_hand(base, prompt, text):
    """The label whose word is likelier, each scored after the whole prompt, read at once."""
    shown = "".join(f"Text: {each.text}\nLabel: {WORDS[each.label]}\n\n" for each in prompt)
    whole = f"{shown}Text: {text}\nLabel:"
    labels = sorted(WORDS)
    scores = dinado_jax.score(base, [whole] * 2, [WORDS[label] for label in labels])
    return labels[int(np.argmax([score[:-1].sum() for score in scores]))]


def test_the_accuracy_is_that_of_whole_prompts(base):
    found = few_shot(base, EXAMPLES, words=WORDS, shots=1, draws=3, seed=5)
    accuracies = []
    for number in range(3):
        prompt, others = draw(EXAMPLES, 1, (5, number))
        assert sorted(each.label for each in prompt) == ["False", "True"]
        assert sorted((*prompt, *others)) == sorted(EXAMPLES)
        accuracies.append(np.mean([by_hand(base, prompt, x.text) == x.label for x in others]))
    np.testing.assert_allclose(found.per_prompt, accuracies)
    assert found.value == pytest.approx(np.mean(accuracies)) and 0 < found.value < 1


def test_updates_of_the_prompt_change_labels_and_batches_do_not(base):
    prompt, others = draw(EXAMPLES, 2, 0)
    texts = [each.text for each in others]
    plain = classify(base, prompt, texts, words=WORDS)
    assert classify(base, prompt, texts, Reading(0.0, chunk=3), words=WORDS, batch=2) == plain
    assert classify(base, prompt, texts, Reading(1.0, chunk=8), words=WORDS) != plain


def test_a_text_is_scored_in_windows(base):
    text = "the dog saw a cat and the fox . " * 9
    (whole,) = dinado_jax.score(base, [""], [text.strip()])
    found = score_text(base, text)
    np.testing.assert_allclose(np.concatenate(found), whole[:-1], rtol=0, atol=1e-4)
    parts = score_text(base, text, Reading(0.0, chunk=5), window=24, batch=2)
    assert [len(each) for each in parts[:-1]] == [24] * (len(whole[:-1]) // 24)
    assert sum(map(len, parts)) == len(whole) - 1
    np.testing.assert_allclose(parts[0], whole[:24], rtol=0, atol=1e-4)
    updated = score_text(base, text, Reading(0.1, chunk=16))
    np.testing.assert_array_equal(updated[0][:16], found[0][:16])
    assert updated[0].sum() > found[0].sum()  # it repeats itself


def test_bad_input(base, tmp_path):
    assert "text is empty" in error_of(score_text, base, " \n")
    assert "step_size = -1" in error_of(score_text, base, "a dog", Reading(-1))
    assert "chunk = 0" in error_of(score_text, base, "a dog", Reading(0.1, 0))
    long = "the dog saw a cat " * 90
    for text, what in (("a dog", "the text has 2 tokens"), (long, "a window has 192 tokens")):
        said = error_of(score_text, base, text, Reading(0.1, 10**12))
        assert f"{what}, so that no update comes before its end" in said
    score_text(base, "a dog", Reading(0, 10**12))
    assert "step_size = 1e+39" in error_of(score_text, base, "a dog", Reading(1e39))
    params = {**base.params, "ln_f": jax.tree.map(lambda x: x * jnp.nan, base.params["ln_f"])}
    damaged = dataclasses.replace(base, params=params)
    assert "are not finite: check the base's" in error_of(score_text, damaged, "a dog")
    said = error_of(score_text, damaged, "the dog saw a cat " * 9, Reading(0.1, 8))
    assert "are not finite: step_size = 0.1 may be too large, lower it" in said
    short, _ = draw(EXAMPLES, 1, 0)
    said = error_of(lambda: classify(base, short, ["a"], Reading(0.1, 10**12), words=WORDS))
    assert "so that no update comes before their end, give fewer" in said
    with pytest.raises(dinado_jax.InputError, match=r"window = 193: it must be in \[1, 192\]"):
        score_text(base, "a dog", window=193)
    assert "label 'False' has 3 examples, 4 shots" in error_of(draw, EXAMPLES, 4, 0)
    assert "all 2 examples are shots" in error_of(draw, [EXAMPLES[0], EXAMPLES[-1]], 1, 0)
    assert "the examples have 1 label: give" in error_of(draw, EXAMPLES[:3], 1, 0)
    prompt, _ = draw(EXAMPLES, 1, 0)
    assert "no demonstrations" in error_of(classify, base, [], ["a dog"])
    assert "give Example(text, label)" in error_of(classify, base, [("a", "1")], ["a dog"])
    assert "its text or label = 1" in error_of(classify, base, [Example("a", 1)], ["a dog"])
    for words in (["fox"], {"True": 1, "False": "cat"}):
        assert "give a" in error_of(lambda words=words: classify(base, prompt, ["a"], words=words))
    hidden = dinado_jax.load(str(base.folder), prompt_template="hidden")
    assert "prompt template leaves out prompts" in error_of(classify, hidden, prompt, ["a dog"])
    for words, said in (
        ({"True": "fox"}, "label 'False' has no word"),
        ({"True": "fox", "False": " "}, "label 'False' has no word"),
        ({**WORDS, "Maybe": "cat"}, "no example has the label 'Maybe'"),
        ({"True": "fox", "False": "fox "}, "two labels have one word"),
    ):
        with pytest.raises(dinado_jax.InputError, match=said):
            classify(base, prompt, ["a dog"], words=words)
    with pytest.raises(dinado_jax.InputError, match="tokens, the context 192: give fewer shots"):
        classify(base, prompt, ["a dog " * 100], words=WORDS)
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "is empty: give a text" in error_of(read_examples, tmp_path / "empty.jsonl")


def test_commands(base, folder, tmp_path, capsys):
    examples, text, model = tmp_path / "x.jsonl", tmp_path / "x.txt", ("--model", str(folder))
    examples.write_text("".join(json.dumps(each._asdict()) + "\n" for each in EXAMPLES))
    text.write_text("the dog saw a cat .\n" * 12)
    words = [f"{label}={word}" for label, word in WORDS.items()]
    few = ["evaluate", "--few-shot", str(examples), *model, "--shots", "1", "--draws", "3"]
    cli.main([*few, "--words", *words, "--seed", "5", "--json", "--step-size", "0"])
    printed = json.loads(capsys.readouterr().out)
    wanted = few_shot(base, EXAMPLES, words=WORDS, shots=1, draws=3, seed=5)
    assert printed["plain"]["value"] == wanted.value and printed.keys() == {"metric", "plain"}
    cli.main(["evaluate", "--text", str(text), *model, "--step-size", "0.05"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["bits", "plain", "updated", "difference"]
    assert float(lines[3].split()[1]) < 0
    for argv, said in (
        (["--text", text], "--model BASE"),
        (["--text", text, "--few-shot", examples, *model], "leave out one of them"),
        (["--text", text, *model, "--shots", "2"], "--shots has no effect with --text FILE"),
        (["--text", text, *model, "--metrics", "cider"], "--metrics has no effect"),
        (["--text", text, *model, "--seed", "-1"], "seed = -1"),
        (["--text", text, *model, "--chunk", "8"], "--chunk has no effect without updates"),
        ([*few[1:], "--shots", "0"], "shots = 0"),
        (["x.toml", "--text", text, *model], "CONFIG has no effect with --text FILE"),
        (["--step-size", "0.1", "x.toml"], "give --text FILE or --few-shot FILE"),
        ([*few[1:], "--words", "True"], "is no LABEL=WORD"),
        ([*few[1:5], "--shots", "4"], "give more examples, or fewer shots"),
        (["--few-shot", text, *model], "no labelled texts by its name"),
    ):
        assert said in refused(capsys, ["evaluate", *argv])

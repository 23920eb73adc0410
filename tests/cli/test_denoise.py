"""`dinado denoise` from texts to texts, and one line for every way to be wrong."""

import json

import pytest
from support import denoising, word_base
from support.commands import refused

from dinado_jax import cli
from dinado_jax.distributed import signals
from dinado_jax.loading import load_base

SMALL = ["--batch", "8", "--warmup", "2", "--save-every", "50", "--learning-rate", "0.005"]
SIZES = [
    *("--layers", "1", "--width", "16", "--heads", "2", "--positions", "8"),
    *("--vocabulary", "420"),
]


@pytest.fixture(autouse=True)
def deaf(monkeypatch):
    """The command must not take over the signals of pytest."""
    monkeypatch.setattr(signals, "install_handlers", lambda: None)


def run(capsys, *argv):
    cli.main(["denoise", *map(str, argv)])
    return capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denoise")
    rows = [f"{prompt}\t{text}\n" for prompt, text in denoising.PAIRS.items()]
    (folder / "pairs.tsv").write_text("".join(rows))
    (folder / "texts.txt").write_text("\n".join(denoising.TEXTS))
    (folder / "blank.txt").write_text(" \n\n")
    task = f'name = "prompts"\nsource = "{folder / "texts.txt"}"\n'
    (folder / "prompts.toml").write_text(f"[task]\n{task}")
    return folder


@pytest.mark.usefixtures("compiled_quickly")
def test_from_texts_to_texts(capsys, here, tmp_path):
    pairs, masked, writer = here / "pairs.tsv", tmp_path / "masked", tmp_path / "writer"
    files = [here / "texts.txt"]
    argv = ["pretrain", *files, "--out", masked, "--steps", "3", "--mask-rate", "0.3", *SIZES]
    used = run(capsys, *argv, *SMALL)
    assert used == [f"use: dinado denoise train PAIRS --model {masked}"]
    argv = ["train", pairs, "--model", masked, "--out", writer, "--steps", "3", *SMALL]
    argv += ["--max-length", "6", "--encoder-layers", "1"]
    shown, use = run(capsys, *argv)
    assert shown == "Writer(1 + 1 layers of width 16, texts of up to 6 tokens)"
    assert use == f"use: dinado denoise write {writer} --prompts FILE"
    weights = (writer / "denoiser.safetensors").read_bytes()
    run(capsys, *argv)  # continues what is done
    assert (writer / "denoiser.safetensors").read_bytes() == weights

    lines = run(capsys, "write", writer, "--prompt", "go", "--prompt", "a dog")
    assert len(lines) == 2
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("go\na dog\n")
    base = word_base.write(tmp_path / "base")
    argv = ["write", writer, "--prompts", prompts, "--base", base, "--oracle", "length <= 6"]
    argv += ["--steps", "2", "--lengths", "2", "--samples", "2", "--json"]
    assert run(capsys, *argv, "--out", tmp_path / "out.jsonl") == [str(tmp_path / "out.jsonl")]
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["prompt"] for one in found] == ["go", "a dog"]
    for one in found:
        assert one["text"] == one["candidates"][0]["text"] and len(one["candidates"]) == 4
        labels = [each["label"] for each in one["candidates"]]
        assert set(labels) <= {0.0, 1.0}
        assert labels == sorted(labels, reverse=True)
    _refusals(capsys, here, masked, writer)


@pytest.mark.usefixtures("compiled_quickly")
def test_distilled_pairs_have_the_greedy_texts_of_a_base(capsys, here, tmp_path):
    base = word_base.write_ending(tmp_path, list(denoising.PAIRS))
    out = tmp_path / "new.jsonl"
    argv = ["distil", here / "pairs.tsv", "--base", base, "--max-new-tokens", "6", "--out", out]
    assert run(capsys, *argv) == [str(out)]
    pairs = [json.loads(line) for line in out.read_text().splitlines()]
    prompts = [one["prompt"] for one in pairs]
    texts = load_base(str(base)).generate(prompts, max_new_tokens=6, temperature=0.0)
    assert pairs and [one["target"] for one in pairs] == [one.text for one in texts]
    argv = ["train", out, "--out", tmp_path / "of", "--steps", "1", *SIZES, *SMALL]
    assert "Writer" in run(capsys, *argv, "--positions", "40")[0]


def _refusals(capsys, here, masked, writer):
    """Those that need models."""
    train = ["denoise", "train", here / "pairs.tsv", "--out", here / "new", "--model", masked]
    write = ["denoise", "write", writer, "--prompt", "go"]
    pretrain = ["denoise", "pretrain", here / "texts.txt", "--steps", "3", *SMALL]
    (here / "full").mkdir()
    (here / "full" / "config.json").write_text("{}")
    for argv, said in (
        ([*pretrain, *SIZES, "--out", here / "full"], "is there already: name a new folder"),
        ([*pretrain, "--model", masked, "--out", masked], "is --model: name another folder"),
        ([*train[:4], here / "full", *train[5:]], "is there already: name a new folder"),
        (
            [*pretrain, *SIZES, "--mask-rate", "0.3", "--out", masked, "--heads", "4"],
            "a training with another architecture",
        ),
        ([*train, "--width", "32"], "--width is of a new model, and --model has its own"),
        ([*train, "--decoder-layers", "2"], "decoder_layers = 2: the masked language model has 1"),
        (
            [*train, "--max-length", "15"],
            "max_length = 15: the model has positions for texts",
        ),
        ([*train, "--batch", "9"], "batch = 9 cannot be shared by 8 devices"),
        ([*write, "--oracle", "no_such"], "no_such"),
        ([*write[:3], "--prompt", "a dog " * 20], "the encoder has positions for 6: shorten it"),
    ):
        assert said in refused(capsys, argv)


@pytest.mark.parametrize(
    "argv, said",
    [
        ("train none.jsonl --out x", "none.jsonl"),
        (
            "train {here}/texts.txt --out x",
            "no file of pairs by its name: give .jsonl",
        ),
        ("train {here}/pairs.tsv", "--out is missing"),
        ("train {here}/pairs.tsv --out x --max-length 0", "max_length = 0: it must be at least 1"),
        ("train {here}/pairs.tsv --out x --steps 0", "steps = 0: it must be 1 to"),
        ("train {here}/pairs.tsv --out x --vocabulary 9", "needs at least 260"),
        ("train {here}/pairs.tsv --out x --width 30", "width = 30 is not divisible by heads = 4"),
        ("train {here}/pairs.tsv --out x --model {here}", "config.json"),
        ("pretrain {here}/texts.txt --out x --positions 2", "positions = 2: it must be 3 to"),
        ("pretrain {here}/texts.txt --out x --vocabulary 99999999999", "vocabulary = 99999999999:"),
        ("pretrain {here}/texts.txt --out x --batch 99999999999", "batch = 99999999999: it must"),
        ("pretrain {here}/blank.txt --out x", "blank.txt is empty: give a text per line"),
        ("pretrain {here}/texts.txt --out {here}/texts.txt", "texts.txt is there already"),
        ("train {here}/prompts.toml --out x", "no example has a reference to train on"),
        ("write x --prompt a --samples 99999999999", "samples = 99999999999: it must be 1 to"),
        ("pretrain {here}/none.txt --out x", "none.txt"),
        ("pretrain {here}/texts.txt {here}/pairs.tsv --out x", "texts and pairs at once"),
        (
            "pretrain {here}/texts.txt --out x --mask-rate 2",
            "mask_rate = 2.0: it must be in",
        ),
        ("write {here} --prompt a", "no denoiser.json in"),
        ("write x", "no prompts given: --prompt TEXT, or --prompts FILE"),
        ("write x --prompt a --order best", "order = 'best': give one of confidence, random"),
        ("write x --prompt a --steps 1 --temperature 1", "--temperature has no effect in one step"),
        ("write x --prompt a --steps 2 --share 0.5", "--share has no effect in two steps"),
        ("write x --prompt a --order random", "--order has no effect where every step draws all"),
        ("write x --prompt a --share 0", "share = 0.0: it must be in (0, 1]"),
        ("write x --prompt a --out {here}", "texts are written to a file"),
        ("distil {here}/pairs.tsv --base x --out y.tsv", "pairs are written as .jsonl, name it so"),
        ("distil {here}/pairs.tsv --base none --out y.jsonl", "none"),
        ("distil {here}/pairs.tsv --out y.jsonl", "--base is missing"),
        ("distil y.jsonl --base x --out ./y.jsonl", "is the file that is read: name another one"),
        ("write x --prompts {here}/texts.txt --out {here}/texts.txt", "is the file that is read"),
    ],
)
def test_bad_input(capsys, here, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, ["denoise", *argv.format(here=here).split()])


@pytest.mark.usefixtures("compiled_quickly")
def test_a_loss_that_is_not_finite_is_told_in_a_line(capsys, here, tmp_path):
    argv = ["pretrain", here / "texts.txt", "--out", tmp_path / "x", *SIZES, "--steps", "3"]
    argv += ["--batch", "8", "--warmup", "0", "--learning-rate", "1e30"]
    with pytest.raises(SystemExit) as caught:
        run(capsys, *argv)
    assert caught.value.code == 1
    assert "the loss is nan" in capsys.readouterr().err.splitlines()[-1]

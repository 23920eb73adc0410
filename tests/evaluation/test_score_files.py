"""`dinado evaluate --predictions`: what it reads, what it prints, and what it refuses."""

import json
import sys

import numpy as np
import pytest
from support import word_base

import dinado_jax
from dinado_jax import cli
from dinado_jax.evaluation.samples import Sample, write_samples
from dinado_jax.evaluation.text_metrics import METRICS

SETS = [
    (["dog", "run"], "A dog runs.", ["The dog runs.", "A dog ran away."]),
    (["cat", "sleep"], "A cat is here.", ["The cat sleeps.", "A cat slept here."]),
    (["box", "carry"], "A man carries boxes.", ["He carries a box."]),
]


@pytest.fixture
def write(tmp_path):
    def write(name, lines):
        lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return str(tmp_path / name)

    return write


@pytest.fixture
def texts(write):
    return write("texts.txt", [text for _, text, _ in SETS])


@pytest.fixture
def outputs(write):
    return write("o.jsonl", [{"prompt": " ".join(c) + " =", "text": text} for c, text, _ in SETS])


@pytest.fixture
def references(write):
    rows = [{"concepts": c, "scene": group} for c, _, group in SETS]
    return write("r.jsonl", rows)


def scores(capsys, *argv):
    cli.main(["evaluate", "--json", *argv])
    return json.loads(capsys.readouterr().out)


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", *argv])
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    return line


def value(found, name="cider_d"):
    return found["metrics"][name]["value"]


def test_every_format_gives_the_same_scores(capsys, write, texts, outputs, references):
    whole = scores(capsys, "--predictions", outputs, "--references", references)
    left_out = {"m_acc_formal", "m_acc_counted", "meteor", "spice", "perplexity"}
    assert whole["left_out"].keys() == left_out
    assert whole["metrics"].keys() == METRICS.keys() - left_out
    assert whole["prompts"] == whole["texts"] == 3
    assert value(whole, "coverage") == pytest.approx((1 + 0.5 + 1) / 3)
    assert value(whole, "success") == pytest.approx(2 / 3)
    tabs = write("tabs.txt", ["\t".join(group) for *_, group in SETS])
    first = write("first.txt", [group[0] for *_, group in SETS])
    second = write("second.txt", [(*group, "")[1] for *_, group in SETS])
    lists = write("lists.jsonl", [{"references": group} for *_, group in SETS])
    own = write("own.jsonl", [{"said": text} for _, text, _ in SETS])
    for files in ([tabs], [first, second], [lists], [references]):
        argv = ("--predictions", texts, "--references", *files)
        found = scores(capsys, *argv, "--metrics", "cider_d", "chrf")
        assert value(found) == value(whole) > 0 and value(found, "chrf") == value(whole, "chrf")
    found = scores(
        capsys, "--predictions", own, "--text-field", "said", "--references", lists,
        "--metrics", "cider_d",
    )  # fmt: skip
    assert value(found) == value(whole) and found["metrics"].keys() == {"cider_d"}


def test_prompts_are_matched_whatever_their_order(capsys, write, outputs, references):
    argv = ("--references", references, "--metrics", "cider_d")
    whole = scores(capsys, "--predictions", outputs, *argv)
    rows = [{"prompt": " ".join(c[::-1]) + " =", "text": t} for c, t, _ in reversed(SETS)]
    turned = write("turned.jsonl", [*rows, *rows])
    found = scores(capsys, "--predictions", turned, *argv)
    assert (found["prompts"], found["texts"]) == (3, 6)
    assert value(found) == pytest.approx(value(whole))
    part = write("part.jsonl", rows[:2])
    found = scores(capsys, "--predictions", part, *argv)
    assert found["prompts_without_texts"] == 1


def test_without_references_and_prompts_the_rest_is_reported(capsys, texts):
    found = scores(capsys, "--predictions", texts)
    assert {"distinct_2", "self_bleu", "length"} <= found["metrics"].keys()
    assert "give --references" in found["left_out"]["cider_d"]
    assert "concepts" in found["left_out"]["coverage"]
    cli.main(["evaluate", "--predictions", texts])
    shown = capsys.readouterr().out
    assert "3 texts of 3 prompts" in shown and "left out: keyword coverage, " in shown


def test_a_baseline(capsys, write, outputs, references):
    worse = write(
        "worse.jsonl", [{"prompt": " ".join(c) + " =", "text": "A zebra."} for c, *_ in SETS[::-1]]
    )
    names = ("--metrics", "coverage", "cider_d", "distinct_2")
    argv = ("--predictions", outputs, "--references", references, *names, "--baseline", worse)
    found = scores(capsys, *argv)["metrics"]
    assert found["coverage"]["baseline"] == 0
    assert found["coverage"]["difference"] == found["coverage"]["value"] > 0
    assert 0 < found["coverage"]["p_value"] <= 1
    assert "p_value" not in found["distinct_2"]
    cli.main(["evaluate", *argv])
    assert "baseline" in capsys.readouterr().out
    rows = [{"prompt": " ".join(c) + " =", "text": text} for c, text, _ in SETS[::-1]]
    same = scores(capsys, *argv[:-1], write("same.jsonl", rows))["metrics"]["cider_d"]
    assert same["difference_interval"] == [0, 0] and same["p_value"] == 1  # paired by prompt
    part = write("part.jsonl", [{"prompt": "dog run =", "text": "A dog."}])
    assert "has no text for prompt 'cat sleep ='" in refused(capsys, *argv[:-1], part)


def test_marked_references(capsys, write):
    """M-Acc of their phrases; of the other metrics they are references without marks."""
    formal = ["[F]Sind Sie[/F] da?", "Haben [F]Sie[/F] Zeit?", "Ja."]
    informal = ["[F]Bist du[/F] da?", "[F]Hast du[/F] Zeit?", "Ja."]
    texts = write("t.txt", ["Sind Sie da?", "Hast du Zeit?", "Ja."])
    marked = ("--formal", write("f.txt", formal), "--informal", write("i.txt", informal))
    found = scores(capsys, "--predictions", texts, *marked)["metrics"]
    assert found["m_acc_formal"]["value"] == 1 / 2
    assert found["m_acc_counted"]["value"] == pytest.approx(2 / 3)
    plain = [
        [text.replace("[F]", "").replace("[/F]", "") for text in x] for x in (formal, informal)
    ]
    both = write("pf.txt", plain[0]), write("pi.txt", plain[1])
    names = ("sacrebleu", "cider_d", "rouge_l")
    wanted = scores(capsys, "--predictions", texts, "--references", *both)["metrics"]
    assert all(found[name] == wanted[name] for name in names)
    third = ("--references", write("third.txt", ["Hier?", "Zeit?", "Ja."]))
    wanted = scores(capsys, "--predictions", texts, *third, *both)["metrics"]
    found = scores(capsys, "--predictions", texts, *third, *marked)["metrics"]
    assert all(found[name] == wanted[name] for name in names)
    other = write("o.txt", ["Sind Sie da?", "Haben Sie Zeit?", "Ja."])
    found = scores(capsys, "--predictions", texts, *marked, "--baseline", other)["metrics"]
    assert found["m_acc_formal"]["baseline"] == 1 and found["m_acc_formal"]["difference"] == -0.5

    one = ("--predictions", texts, "--formal", marked[1])
    assert "--formal and --informal belong together" in refused(capsys, *one)
    assert "--formal is for texts from anywhere" in refused(capsys, "x.toml", *marked)
    for lines, what in (
        (formal[:2], "has no line for"),
        ([*formal[:2], ""], "'': give a reference"),
        ([*formal[:2], "[F]Sie"], "'[F]Sie': give a reference"),
        (plain[0], "no phrase is marked"),
    ):
        bad = write("bad.txt", lines)
        said = refused(capsys, *one, "--informal", bad)
        assert what in said and bad in said
    assert "give --formal FILE" in refused(
        capsys, "--predictions", texts, "--metrics", "m_acc_formal"
    )


def test_perplexity_under_a_model_that_judges(capsys, outputs, tmp_path):
    path = word_base.write(tmp_path / "base")
    argv = ("--predictions", outputs, "--model", str(path))
    found = scores(capsys, *argv)["metrics"]["perplexity"]
    base = dinado_jax.load(path)
    nats = np.concatenate(base.score([""] * 3, [text for _, text, _ in SETS]))
    assert found["value"] == pytest.approx(np.exp(-nats.mean()), rel=1e-5)
    assert found["interval"][0] < found["value"] < found["interval"][1]
    cli.main(["evaluate", *argv, "--metrics", "perplexity", "length", "--baseline", outputs])
    (line,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("perplexity"))
    assert line.split()[-1] == "1"
    said = refused(capsys, "--predictions", outputs, "--metrics", "perplexity")
    assert "metric perplexity is not offered" in said and "--model BASE" in said
    said = refused(capsys, "--predictions", outputs, "--model", str(tmp_path / "none"))
    assert "none" in said


def test_the_samples_of_a_run_are_read(capsys, tmp_path, references):
    samples = [
        Sample(i, " ".join(concepts) + " =", text, 1.0, -1.0, -1.0, 3, True, 0.5)
        for i, (concepts, *texts) in enumerate(SETS)
        for text in (texts[0], "A dog.")
    ]
    write_samples(tmp_path / "control.jsonl", samples)
    path = str(tmp_path / "control.jsonl")
    found = scores(capsys, "--predictions", path, "--references", references)
    assert (found["prompts"], found["texts"]) == (3, 6)
    assert value(found, "coverage") == pytest.approx((1 + 0.5 + 0.5 + 0 + 1 + 0) / 6)


def test_lines_that_do_not_match(capsys, write, texts, outputs, references):
    short, long = write("short.txt", ["a"]), write("long.txt", ["a"] * 4)
    blank = write("blank.txt", ["a", "", "c"])
    for path, said in (
        (short, f"{short} has no line for {texts}:2"),
        (long, f"{long}:4 has no output"),
        (blank, f"{blank}:2, no reference"),
    ):
        assert said in refused(capsys, "--predictions", texts, "--references", path)
    other = write("other.jsonl", [{"prompt": "fox =", "text": "A fox."}])
    said = refused(capsys, "--predictions", other, "--references", references)
    assert f"{other}:1, prompt 'fox =' has no reference in {references}" in said
    for line, what in (
        ("{", "malformed JSON"),
        ("[]", "not a JSON object"),
        ({"x": 1}, "no field text or prediction: name the field"),
        ({"text": 1}, "text is 1: give a text or a list of texts"),
        ({"text": ["a", "b"]}, "2 texts: give one output"),
        ({"text": "a", "concepts": ["a b"]}, "a concept is one word"),
        ({"text": "a", "prompt": 3}, "the prompt is 3"),
    ):
        bad = write("bad.jsonl", [{"text": "fine"}, line])
        assert f"{bad}:2, " in (said := refused(capsys, "--predictions", bad)) and what in said
    assert "no texts" in refused(capsys, "--predictions", write("empty.txt", []))
    assert "no such file" in refused(capsys, "--predictions", texts + "x")


def test_prompts_of_words_in_another_order_are_other_prompts(capsys, write):
    texts = ["Der Hund beisst den Mann.", "Der Mann beisst den Hund."]
    prompts = ["dog bites man =", "man bites dog ="]
    rows = [{"prompt": p, "references": [t]} for p, t in zip(prompts, texts)]
    argv = ("--references", write("refs.jsonl", rows), "--metrics", "rouge_l")
    right = [{"prompt": p, "text": t} for p, t in zip(prompts, texts)]
    wrong = [{"prompt": p, "text": t} for p, t in zip(prompts, texts[::-1])]
    found = [scores(capsys, "--predictions", write("o.jsonl", x), *argv) for x in (right, wrong)]
    assert value(found[0], "rouge_l") == pytest.approx(1)
    assert value(found[1], "rouge_l") < 0.9


def test_lines_whose_prompts_differ_are_not_compared(capsys, write):
    outputs = write("o.jsonl", [{"prompt": p, "text": p} for p in "AB"])
    plain = write("plain.txt", ["a", "b"])
    refs = write("refs.jsonl", [{"prompt": p, "references": [p]} for p in "BA"])
    said = refused(capsys, "--predictions", outputs, "--references", refs, plain)
    assert f"{outputs}:1 has the prompt 'A', {refs}:1 'B': give a prompt in every line" in said


def test_tabs_and_carriage_returns_within_a_line(capsys, write):
    """A tab divides references of text files alone; a lone CR ends no line of transcripts."""
    text, wanted = "a b c d e f", {"references": "a b c\td e f"}
    outputs = write("o.txt", [text])
    argv = ("--predictions", outputs, "--metrics", "sacrebleu", "--references")
    whole = scores(capsys, *argv, write("refs.jsonl", [wanted]))
    assert value(whole, "sacrebleu") == pytest.approx(100)
    parts = scores(capsys, *argv, write("refs.txt", [wanted["references"]]))
    assert value(parts, "sacrebleu") < 100
    returns = scores(capsys, *argv, write("cr.txt", ["a b c\rd e f"]))
    assert value(returns, "sacrebleu") == pytest.approx(100)


def test_metrics_that_cannot_be_computed(capsys, monkeypatch, texts):
    def said(name):
        return refused(capsys, "--predictions", texts, "--metrics", name)

    assert "no such metric: did you mean rouge_l?" in said("rouge")
    assert "no such metric: one of coverage" in said("x")
    assert "metric METEOR is not offered" in said("METEOR")
    assert "give --references" in said("rouge_l")
    assert "lists of concepts" in said("success")
    found = scores(capsys, "--predictions", texts, "--references", texts)
    assert "version:" in found["metrics"]["chrf"]["signature"]
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    found = scores(capsys, "--predictions", texts, "--references", texts)
    assert "[eval]" in found["left_out"]["chrf"] and "cider_d" in found["metrics"]


def test_options_that_do_not_go_together(capsys, texts):
    assert "CONFIG is missing: give it, or --predictions FILE" in refused(capsys)
    assert "--baseline is for texts" in refused(capsys, "x.toml", "--baseline", texts)
    assert "CONFIG has no effect" in refused(capsys, "x.toml", "--predictions", texts)
    assert "--dry-run has no effect" in refused(capsys, "--predictions", texts, "--dry-run")


def test_lines_are_objects_by_the_name_of_their_file(capsys, write):
    rows = [{"text": "the dog ran"}, {"text": "the cat sat"}]
    refs = write("refs.txt", ["the dog ran", "a cat sat down"])
    argv = ("--references", refs, "--metrics", "rouge_l", "length", "--predictions")
    found = [
        scores(capsys, *argv, write(name, rows)) for name in ("a.jsonl", "a.JSONL", "a.ndjson")
    ]
    assert found[0] == found[1] == found[2] and value(found[0], "length") == 3
    for name in ("a.json", "a.csv", "a.tsv"):
        assert f"{name}, a" in refused(capsys, *argv, write(name, ["x", "y"]))


def test_a_baseline_without_prompts_belongs_to_the_lines_of_the_system(capsys, write):
    """Whatever the order of the references, and of the concepts."""
    rows = [{"concepts": ["dog", "run"], "text": "the dog ran"},
            {"concepts": ["cat", "sit"], "text": "the cat sat"}]  # fmt: skip
    system = write("system.jsonl", rows)
    plain = write("baseline.txt", [row["text"] for row in rows])
    turned = write(
        "turned.jsonl", [row | {"concepts": row["concepts"][::-1]} for row in rows[::-1]]
    )
    refs = [{"prompt": "run dog =", "references": ["the dog ran"]},
            {"prompt": "cat sit =", "references": ["a cat sat"]}]  # fmt: skip
    for order in (refs, refs[::-1]):
        for baseline in (plain, turned):
            found = scores(
                capsys, "--predictions", system, "--baseline", baseline,
                "--references", write("refs.jsonl", order), "--metrics", "rouge_l", "coverage",
            )  # fmt: skip
            for name in ("rouge_l", "coverage"):
                assert found["metrics"][name]["difference"] == 0
            assert value(found, "coverage") == 1
    few = write("few.txt", ["the dog ran"])
    said = refused(capsys, "--predictions", system, "--baseline", few)
    assert f"{few} has no line for {system}:2" in said


def test_files_may_be_given_one_option_at_a_time(capsys, write):
    texts = write("t.txt", ["a b c"])
    one, two = write("one.txt", ["a b c"]), write("two.txt", ["x y z"])
    argv = ["--predictions", texts, "--metrics", "rouge_l"]
    assert value(scores(capsys, *argv, "--references", one, "--references", two), "rouge_l") == 1
    both = scores(capsys, *argv, "--references", one, "--metrics", "length")
    assert both["metrics"].keys() == {"rouge_l", "length"}


def test_options_without_effect(capsys, write, texts, outputs):
    argv = ["--predictions", texts, "--metrics", "length"]
    for name in ("text", "prompt", "references"):
        assert f"--{name}-field has no effect" in refused(capsys, *argv, f"--{name}-field", "x")
    said = refused(capsys, "--predictions", outputs, "--prompt-field", "promt")
    assert "no field promt in any line" in said
    assert "--model is for the metric perplexity" in refused(capsys, *argv, "--model", "nowhere")
    same = ["--predictions", texts, "--formal", texts, "--informal", texts]
    assert "--formal and --informal are the same file" in refused(capsys, *same)
    marked = write("marked.jsonl", [{"text": "[F]Sie[/F]"}] * 3)
    said = refused(capsys, "--predictions", texts, "--formal", marked, "--informal", texts)
    assert "marked.jsonl, objects: give a text file" in said


def test_what_says_little_comes_with_a_warning(capsys, write):
    one = write("one.txt", ["a b c d e"])
    cli.main(["evaluate", "--predictions", one, "--references", one])
    said = capsys.readouterr().err
    assert "cider_d and cider weigh words by how few prompts have them, and there is one" in said
    assert "no value of self_bleu" in said
    cli.main(["evaluate", "--predictions", write("none.txt", ["", " "]), "--metrics", "length"])
    assert "all texts are empty" in capsys.readouterr().err

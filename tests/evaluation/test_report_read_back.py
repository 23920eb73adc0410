"""Every figure of summary.json and every cell of the report, once more from the samples of runs."""

import html
import importlib.metadata
import itertools
import json
import math
import platform
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from sacrebleu import corpus_bleu
from scipy.optimize import brentq
from support import word_run
from support.html_page import Page

from dinado_jax.metrics.captions import CIDER_D, COCO_BLEU, ROUGE_L
from dinado_jax.metrics.protocol import items_of
from dinado_jax.stages.pipeline import show_report


@pytest.fixture(scope="module", params=["finished", "truncated"])
def run(request, tmp_path_factory):
    """The folder of a run and its configuration."""
    folder = word_run.finished(tmp_path_factory)
    if request.param == "finished":
        return folder / "run", word_run.config(folder / "data")
    return word_run.truncated(tmp_path_factory)


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run[0] / "summary.json").read_text())


@pytest.fixture(scope="module")
def samples(run):
    return {
        name: word_run.read_lines(run[0] / "generate" / f"{name}.jsonl")
        for name in ("base", "control")
    }


def same(found, wanted):
    """Equal, null standing for nan and infinity."""
    if not math.isfinite(wanted):
        return found is None
    return found == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def error_of(lines, values):
    """Standard error of a mean, prompts being independent: nan for one prompt."""
    ids = [line["prompt_id"] for line in lines]
    means = [np.mean([v for v, i in zip(values, ids) if i == prompt]) for prompt in set(ids)]
    if len(means) < 2:
        return math.nan
    return np.std(means, ddof=1) / math.sqrt(len(means))


def per_token(lines):
    tokens = sum(line["tokens"] for line in lines)
    return sum(line["log_prob_base"] for line in lines) / tokens if tokens else math.nan


def calibration(lines, bins=10):
    """By bins of equally many prompts, the first ones larger if that is not possible."""
    asked = {}
    for line in lines:
        asked.setdefault(line["prompt_id"], []).append(line)
    prompts = sorted(
        (each[0]["value"], np.mean([line["label"] for line in each])) for each in asked.values()
    )
    total, error = len(prompts), 0
    for number in range(bins):
        size = total // bins + (number < total % bins)
        part, prompts = np.array(prompts[:size]), prompts[size:]
        if size:
            differs = part[:, 1] - part[:, 0]
            chance = differs.var(ddof=1) / size if size > 1 else 0
            error += size / total * math.sqrt(max(0, differs.mean() ** 2 - chance))
    assert not prompts
    return error


def distinct_2(lines, count, seed):
    chosen = np.random.default_rng(seed).permutation(len(lines))[:count]
    words = [re.findall(r"[a-z]+", lines[i]["text"].lower()) for i in chosen]
    pairs = [pair for each in words for pair in itertools.pairwise(each)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def log_prob(lines):
    return [line["log_prob_base"] for line in lines]


@pytest.mark.parametrize("name", ["base", "control"])
def test_figures_of_each_model(run, summary, samples, name):
    config, lines, found = run[1], samples[name], summary[name]
    label = [line["label"] for line in lines]
    successes = [line for line in samples["base"] if line["label"] > 0.5]
    equal = min(len(successes), len(samples["control"]))
    wanted = {
        "samples": len(lines),
        "success_rate": np.mean(label),
        "success_rate_error": error_of(lines, label),
        "log_prob_under_base": np.mean(log_prob(lines)),
        "log_prob_per_token": per_token(lines),
        "tokens": np.mean([line["tokens"] for line in lines]),
        "finished": np.mean([line["finished"] for line in lines]),
        "distinct_2": distinct_2(lines, equal, config.seed),
        "coverage": math.nan,
        **dict.fromkeys(("bleu_4", "coco_bleu_4", "rouge_l", "cider_d"), math.nan),
    }
    if config.rollout.oracle == "":
        wanted["coverage"] = np.mean(
            [
                np.mean([word in line["text"].split() for word in line["prompt"].split()[:-1]])
                for line in lines
            ]
        )
    if not config.evaluate.prompt_file:
        references = dict(word_run.read_examples(Path(config.task.source) / "dev.jsonl"))
        own = [references[line["prompt"]] for line in lines]
        streams = [[each[k] if k < len(each) else None for each in own] for k in range(3)]
        texts = [line["text"] for line in lines]
        wanted["bleu_4"] = corpus_bleu(texts, streams, lowercase=True, force=True).score
        items = items_of([line["prompt"] for line in lines], texts, own)
        for metric in (COCO_BLEU[3], ROUGE_L, CIDER_D):  # right: tests/metrics/test_captions.py
            wanted[metric.name] = metric.measure(items).value
    if name == "base":
        wanted["successes"] = len(successes)
        wanted["log_prob_per_token_of_successes"] = per_token(successes)
        wanted["distinct_2_of_successes"] = distinct_2(successes, equal, config.seed)
    else:
        ratio = [line["log_prob"] - line["log_prob_base"] for line in lines]
        wanted |= {"kl_to_base": np.mean(ratio), "kl_to_base_error": error_of(lines, ratio)}
        wanted["calibration_error"] = calibration(samples["base"])
        squares = [(line["label"] - line["value"]) ** 2 for line in samples["base"]]
        wanted["brier_score"] = np.mean(squares)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert same(found[key], value), (key, found[key], value)


def bernoulli_kl(s, r):
    parts = [(s, r), (1 - s, 1 - r)]
    if any(p == 0 < q for q, p in parts):
        return math.inf
    return sum(q * math.log(q / p) for q, p in parts if q)


def by_prompt(lines, success):
    """The floor where prompts differ: their rates by EM on a grid, one tilt for all."""
    ids = [line["prompt_id"] for line in lines]
    grid, weight = (np.arange(200) + 0.5) / 200, np.full(200, 1 / 200)
    likelihood = []
    for prompt in sorted(set(ids)):
        label = [line["label"] for line in lines if line["prompt_id"] == prompt]
        hits, draws = sum(label), len(label)
        likelihood.append(grid**hits * (1 - grid) ** (draws - hits))
    for _ in range(300):
        posterior = np.array(likelihood) * weight
        weight = (posterior / posterior.sum(1, keepdims=True)).mean(0)

    def excess(t):
        return weight @ (grid / (grid + (1 - grid) * np.exp(-t))) - success

    low, high = excess(-50), excess(50)
    t = 50.0 if high < 0 else -50.0 if low > 0 else brentq(excess, -50, 50, xtol=1e-12)
    return t * success - weight @ np.log1p(grid * np.expm1(t))


def test_floors(run, summary, samples):
    rates = [np.mean([line["label"] for line in samples[n]]) for n in ("control", "base")]
    kl = np.mean([line["log_prob"] - line["log_prob_base"] for line in samples["control"]])
    floor = bernoulli_kl(*rates)
    prompts = max(floor, by_prompt(samples["base"], rates[0]))
    assert same(summary["kl_floor"], floor)
    assert summary["kl_floor_by_prompt"] == pytest.approx(prompts, rel=1e-4)
    assert kl > 0 and same(summary["efficiency"], floor / kl)
    assert summary["efficiency_by_prompt"] == pytest.approx(prompts / kl, rel=1e-4)


def test_how_the_run_came_about(run, summary):
    path, config = run
    assert summary["config"] == config.as_dict()
    records = {
        name: json.loads((path / name / "done.json").read_text())
        for name in ("sft", "rollout", "train", "generate")
    }
    assert summary["stages"] == {name: each["figures"] for name, each in records.items()}
    seconds = {name: each["seconds"] for name, each in records.items()}
    evaluated = json.loads((path / "evaluate" / "done.json").read_text())
    own = summary["seconds"]["evaluate"]
    assert summary["seconds"] == seconds | {"evaluate": own}
    assert 0 <= own <= evaluated["seconds"] + 0.01
    figures = {"success_rate": summary["control"]["success_rate"]}
    figures["efficiency"] = summary["efficiency"]
    assert evaluated["figures"] == figures
    packages = {"dinado-jax", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy"}
    versions = {name: importlib.metadata.version(name) for name in packages}
    assert summary["versions"] == versions | {"python": platform.python_version()}
    device = jax.devices()[0]
    kind = {"platform": device.platform, "kind": device.device_kind}
    assert summary["device"] == {**kind, "count": jax.device_count()}


PERCENT, FIXED_1, FIXED_2, FIXED_3 = "{:.1%}", "{:.1f}", "{:z.2f}", "{:.3f}"
VALUES = "</?mark>|</?u[^>]*>| <small>.*?</small>"  # marks, and R under tokens
SIDES = [
    ("success rate", "success_rate", PERCENT),
    ("keyword coverage", "coverage", PERCENT),
    ("BLEU-4", "bleu_4", FIXED_1),
    ("BLEU-4 (coco-caption)", "coco_bleu_4", FIXED_3),
    ("ROUGE-L (coco-caption)", "rouge_l", FIXED_3),
    ("CIDEr-D (coco-caption's CIDEr)", "cider_d", FIXED_3),
    ("Distinct-2 (equal counts)", "distinct_2", FIXED_3),
    ("log-probability under the base (nats)", "log_prob_under_base", FIXED_2),
    ("the same per token", "log_prob_per_token", FIXED_2),
    ("per token of the base's successes", "log_prob_per_token_of_successes", FIXED_2),
    ("length (tokens)", "tokens", FIXED_1),
    ("ended by itself", "finished", PERCENT),
    ("KL to the base (nats per sequence)", "kl_to_base", FIXED_2),
    ("calibration error of V(prompt)", "calibration_error", FIXED_3),
    ("Brier score of V(prompt)", "brier_score", FIXED_3),
]
FLOORS = [
    ("no controller can have a lower KL than", "kl_floor"),
    ("efficiency (1 is perfect)", "efficiency"),
    ("the floor, prompts differing (estimate)", "kl_floor_by_prompt"),
    ("efficiency by that floor", "efficiency_by_prompt"),
]


def table_of(summary):
    """Label, base and control of every row that has a figure."""

    def cell(value, form):
        return "" if value is None else form.format(value)

    rows = [
        (label, *(cell(summary[side].get(key), form) for side in ("base", "control")))
        for label, key, form in SIDES
    ]
    rows += [(label, "", cell(summary[key], FIXED_2)) for label, key in FLOORS]
    return [row for row in rows if row[1] or row[2]]


def first_of_each_prompt(samples):
    """Of the prompts that both have."""
    firsts = [{}, {}]
    for first, name in zip(firsts, ("base", "control")):
        for line in samples[name]:
            first.setdefault(line["prompt_id"], line)
    shared = sorted(firsts[0].keys() & firsts[1].keys())
    return [(firsts[0][number], firsts[1][number]) for number in shared]


def test_the_page_cell_by_cell(run, summary, samples):
    text = (run[0] / "report.html").read_text()
    page = Page(text)
    head, *figures = page.rows["figures"]
    assert head == ["figure", "base", "control"]
    assert [tuple(row) for row in figures] == table_of(summary)
    assert all(warning in page.text("li") for warning in summary["warnings"])
    assert summary["warnings"]
    for stage, seconds in summary["seconds"].items():
        assert f"<dt>{stage}</dt><dd>{seconds:,.0f} s</dd>" in text
    assert page.text("h1") == f"{summary['config']['name']}: before and after control"


def test_the_rounds_of_the_page(run, summary):
    head, *rounds = Page((run[0] / "report.html").read_text()).rows["rounds"]
    stored = summary["stages"]["train"]
    wanted = []
    for number, each in enumerate(stored[f"round_{n}"] for n in range(len(rounds) - 1)):
        kl, efficiency = each["newest_kl"], each["newest_efficiency"]
        floor = ["", ""] if efficiency is None else [f"{kl * efficiency:.2f}", f"{efficiency:.2f}"]
        success, size = f"{each['newest_success_rate']:.1%}", f"{each['effective_successes']:,.0f}"
        wanted.append([str(number), success, FIXED_2.format(kl), *floor, size])
    assert head[0] == "after rounds" and f"round_{len(wanted)}" not in stored
    assert len(wanted) >= 1 and rounds[:-1] == wanted
    control = summary["control"]
    least = [f"{summary[key]:.2f}" for key in ("kl_floor", "efficiency")]
    figures = [f"{control['success_rate']:.1%}", FIXED_2.format(control["kl_to_base"]), *least, ""]
    assert rounds[-1] == [f"{len(wanted)} (held out)", *figures]


def test_the_samples_and_prompts_of_the_page(run, samples):
    text = (run[0] / "report.html").read_text()
    sides = {}
    for name, lines in samples.items():
        for line in lines:
            sides.setdefault(line["prompt_id"], {}).setdefault(name, []).append(line)
    both = [each for _, each in sorted(sides.items()) if len(each) == 2]
    pairs = [pair for each in both for pair in zip(each["base"], each["control"])]
    pairs.sort(key=lambda pair: (pair[1]["label"] > 0.5, pair[0]["label"] > 0.5))
    wanted = [
        text
        for pair in pairs
        for text in (
            pair[0]["prompt"],
            *(f"{'✗✓'[line['label'] > 0.5]}{line['text']}" for line in pair),
        )
    ]
    shown = re.findall(
        r'<p class="prompt" dir="auto">(.*?)</p>|<b>([✓✗]) \w+</b>\n<span dir="auto">(.*?)</span>',
        text,
        re.S,
    )
    plain = [html.unescape(re.sub(VALUES, "", "".join(parts))) for parts in shown]
    assert plain == wanted
    rates = sorted(
        (
            np.mean([line["label"] for line in each["control"]]),
            np.mean([line["label"] for line in each["base"]]),
        )
        for each in both
    )[:20]
    _, *rows = Page(text).rows["prompts"]
    assert [(row[3], row[1]) for row in rows] == [(f"{q:.0%}", f"{p:.0%}") for q, p in rates]


def test_the_terminal_line_by_line(run, summary, samples, capsys):
    path, config = run
    show_report(config, path)
    lines = capsys.readouterr().out.splitlines()
    table = table_of(summary)
    split = [(line[:42].strip(), line[42:52].strip(), line[52:].strip()) for line in lines]
    assert split[0] == ("", "base", "control")
    assert split[1 : 1 + len(table)] == table
    rest = lines[1 + len(table) :]
    assert rest[: len(summary["warnings"])] == [f"warning: {w}" for w in summary["warnings"]]
    wanted = []
    for pair in first_of_each_prompt(samples)[:5]:
        wanted += ["", pair[0]["prompt"]]
        for name, line in zip(("base", "control"), pair):
            wanted.append(f"  {name:8} {'+' if line['label'] > 0.5 else '-'} {line['text']}")
    wanted += ["", str(path / "summary.json"), str(path / "report.html")]
    found = rest[len(summary["warnings"]) :]
    assert [line.rstrip() for line in found] == [line.rstrip() for line in wanted]

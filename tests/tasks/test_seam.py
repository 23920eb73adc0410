"""A task of another kind joins by the table alone: its own prompts, oracle, metric and data."""

import json

import pytest
from support import tiny_run
from support.refusal import error_of

from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import check, run_stages, show_report
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.tasks.table import TASKS

TASK = """
from pathlib import Path

from dinado_jax.tasks.protocol import Example, Metric, Task

readings, lookups = [], []


def requests(settings):
    def examples(split, seed, count=None):
        readings.append((split, count))
        lines = Path(settings.source).read_text().splitlines()
        return [Example(f"Ask for the {line}:", (f"please, a {line} .",)) for line in lines][:count]

    return Task(
        examples,
        oracle="requests_task:even",
        settings_read=frozenset({"source"}),
        source=settings.source,
        fault="" if settings.source else "task.source is empty: give a file of things",
        metrics=(
            Metric("characters", "length (characters)", "{:.1f}", length),
            Metric("never", "only under another oracle", "{:.1f}", length, oracle="lexical"),
        ),
    )


def length(prompts, texts, references):
    assert len(prompts) == len(texts) == len(references)
    return sum(map(len, texts)) / len(texts)


def judge(prompts, texts):
    assert all(prompt.startswith("Ask for the ") for prompt in prompts)
    return [len(text) % 2 == 0 for text in texts]


def __getattr__(name):
    if name != "even":
        raise AttributeError(name)
    lookups.append(name)
    return judge
"""
THINGS = "dog ball kite cart box rope basket bucket chair drum flag hat ladder".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """The task's module, in the table, and a finished run of it."""
    with tiny_run.quick_compilation(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("requests")
        (root / "requests_task.py").write_text(TASK)
        (root / "things.txt").write_text("\n".join(THINGS) + "\n")
        patch.syspath_prepend(str(root))
        import requests_task

        patch.setitem(TASKS, "requests", requests_task.requests)
        requests_task.root, requests_task.run = root, root / "run"
        run_stages(config(root), STAGES, root / "run")
        yield requests_task


def config(root, *more):
    source = f"task.source={root / 'things.txt'}"
    return tiny_run.config("task.name=requests", source, "rollout.oracle=", "train.steps=2", *more)


def test_all_stages_use_its_prompts_and_its_oracle(requests):
    for name in ("base", "control"):
        lines = (requests.run / "generate" / f"{name}.jsonl").read_text().splitlines()
        for sample in map(json.loads, lines):
            assert sample["prompt"] in {f"Ask for the {thing}:" for thing in THINGS}
            assert sample["label"] == float(len(sample["text"]) % 2 == 0)


def test_its_metric_is_reported_and_keyword_coverage_is_not(requests, capsys):
    summary = json.loads((requests.run / "summary.json").read_text())
    lines = (requests.run / "generate" / "base.jsonl").read_text().splitlines()
    lengths = [len(json.loads(line)["text"]) for line in lines]
    assert summary["base"]["characters"] == pytest.approx(sum(lengths) / len(lengths))
    assert summary["base"]["coverage"] is summary["control"]["never"] is None
    show_report(config(requests.root), requests.run)
    shown = capsys.readouterr().out
    assert "length (characters)" in shown and "only under" not in shown
    assert "length (characters)" in (requests.run / "report.html").read_text()


def test_a_command_reads_each_split_and_resolves_the_oracle_once(requests):
    assert requests.readings == [("train", None), ("test", 8)]
    assert requests.lookups == ["even"]


def test_changed_data_is_refused(requests):
    path = requests.root / "things.txt"
    before = path.read_text()
    path.write_text(before.replace("kite", "lamp"))
    said = error_of(run_stages, config(requests.root), STAGES, requests.run)
    path.write_text(before)
    assert "other content of task.source" in said


def test_its_settings_are_checked(requests):
    def refused(*overrides):
        return error_of(tiny_run.config, "task.name=requests", *overrides)

    assert "task.source is empty: give a file of things" in refused()
    text = ("task.source=things", "sft.pretrain_steps=2", "sft.pretrain_path=text")
    assert "task requests makes no examples from plain text" in refused(*text)
    told = "task.train_examples = 5 in the command line has no effect in this run (only for"
    assert f"{told} task.name=toy" in refused("task.source=things", "task.train_examples=5")
    readers = "task.name=commongen, prompts, pairs, text, cocoa, fisher and requests"
    assert readers in error_of(tiny_run.config, "task.source=things")


def test_another_oracle_may_judge_it(requests):
    own = Context.of(config(requests.root)).oracle
    other = Context.of(config(requests.root, "rollout.oracle=support.tiny_run:even")).oracle
    assert own.name == "requests_task:even" and other.name == "support.tiny_run:even"
    prompts = requests.root / "prompts.txt"
    prompts.write_text("Ask for the moon:\n")
    given = config(requests.root, f"evaluate.prompt_file={prompts}", "rollout.oracle=lexical")
    assert "prompts.txt:1, prompt 'Ask for the moon:'" in error_of(check, given, {"generate"})

"""The range of each setting by itself."""

import re

import pytest

from dinado_jax.config.checks import LARGEST, out_of_range
from dinado_jax.config.load import load
from dinado_jax.config.schema import Config, flatten


def faults(*overrides):
    config = load(None, overrides).config
    return list(out_of_range({key: value for key, (value, _) in flatten(config).items()}))


def refused(match, *overrides):
    said, *_ = faults(*overrides)
    assert re.search(match, said) and "\n" not in said


def test_the_defaults_have_no_fault():
    assert faults() == []


@pytest.mark.parametrize(
    "override, match",
    [
        ("base.dtype=float16", "base.dtype"),
        ("control.form=split", "control.form = 'split': one of projected, clamped"),
        ("control.trunk=big", "control.trunk = 'big'"),
        (
            "base.prompt_template=Q:",
            r"base.prompt_template = 'Q:': it has \{prompt\} 0 times, write",
        ),
        ("sft.learning_rate=" + "9" * 400, "sft.learning_rate = inf: it must be finite"),
        ("target.moments=[{feature='', mean=1}]", "table 1, feature = '': give the name"),
        ("target.moments=[{feature='a:b', mean=nan}]", "mean = nan of feature a:b: .* be finite"),
        ("target.moments=[{feature='a:b', mean=-inf}]", "must be finite"),
        (
            "target.moments=[{feature='a:b', mean=1}, {feature='a:b', mean=0}]",
            "target.moments, feature 'a:b' is given twice: leave one out",
        ),
        ("evaluate.strengths=[1, -0.5]", r"evaluate.strengths = .*-0.5\]: each must be 0 .* to 1,"),
        ("evaluate.strengths=[nan]", "each must be 0"),
        ("evaluate.strengths=2e6", "each must be 0"),
        ("evaluate.strengths=[2, 1, 2.0]", "evaluate.strengths: 2.0 is given twice, leave one out"),
        ("sft.learning_rate=-" + "9" * 400, "must be finite"),
        ("sft.steps=1" + "0" * 400, "sft.steps = 1.*0: it must be at most 1,000,000,000"),
    ],
)
def test_faults_are_named(override, match):
    refused(match, override)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a b", "a\\b"])
def test_names_that_leave_the_folder(name):
    refused("name = .* a folder's name", f"name={name}")


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=0",
        "train.refresh_prompts=0",
        "rollout.samples=0",
        "run.save_every=0",
        "seed=-1",
        "seed=4294967296",
        "base.n_embd=0",
        "base.n_layer=-1",
        "base.n_head=0",
        "sft.beta2=1",
        "train.beta2=-0.1",
        "train.bellman=inf",
        "delta.alpha=nan",
        "sft.steps=-1",
        "sft.warmup=-1",
        "train.learning_rate=-1e-3",
        "train.clip=nan",
        "rollout.temperature=-0.5",
        "decode.temperature=nan",
        "decode.top_k=-1",
        "decode.top_p=0",
        "rollout.top_p=1.5",
        "train.weight_clip=0.0",
        "train.weight_clip=1.1",
        "train.mixture=1.5",
        "train.mixture=-0.5",
        "train.bellman_start=-1",
        "control.layers=0",
        "decode.strength=-1",
        "decode.target_rate=1.5",
        "decode.target_rate=nan",
        "decode.reject=1.0",
    ],
)
def test_values_out_of_range(override):
    refused(override.partition("=")[0], override)


def test_no_text_holds_nul():
    for key in ("run.folder", "base.path", "task.source", "evaluate.prompt_file", "name"):
        refused(f"{key} = ", f'{key}="a\\u0000b"')


@pytest.mark.parametrize("key", sorted(LARGEST.keys() - {"base.n_inner"}))
def test_every_number_has_a_bound(key):
    kind = type(Config().as_dict()[key.partition(".")[0]][key.partition(".")[2]])
    refused(f"{key} = ", f"{key}={kind(LARGEST[key] * 10)}")


def test_all_numbers_are_bounded():
    """None of the schema is left out: each is refused far beyond any use."""
    tree = Config().as_dict()
    for section, inner in tree.items():
        values = inner if isinstance(inner, dict) else {"": inner}
        for name, value in values.items():
            if type(value) in (int, float):
                key = f"{section}.{name}".rstrip(".")
                refused(f"{key} = ", f"{key}={type(value)(10**35)}")

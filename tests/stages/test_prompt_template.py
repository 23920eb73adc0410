"""A prompt template through the stages: devices see it, people and oracles do not."""

import json

import pytest
from support import tiny_run

import dinado_jax
from dinado_jax.errors import InputError
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages import pipeline
from dinado_jax.stages.run_folder import STAGES

TEMPLATE = "{prompt}<|endoftext|>\n"


def bare(prompts, texts):
    """An oracle that fails on a prompt in a template."""
    assert all(prompt.endswith(" =") and "<|" not in prompt for prompt in prompts)
    return tiny_run.even(prompts, texts)


def config(template):
    given = (f"base.prompt_template={json.dumps(template)}", f"rollout.oracle={__name__}:bare")
    return tiny_run.config(*given, "sft.max_length=24", "base.n_positions=32")


@pytest.fixture(scope="module")
def run(tmp_path_factory, compiled_quickly):
    path = tmp_path_factory.mktemp("template") / "run"
    pipeline.run_stages(config(TEMPLATE), STAGES[:2], path)
    return path


def test_rollouts_are_of_the_templated_prompts(run):
    rows = Rollouts.load(run / "rollout" / "rollouts.npz")
    codec = load_codec(run / "sft" / "base")
    assert codec.template is None  # the folder is any model's
    whole = [row[:n] for row, n in zip(rows.tokens.tolist(), rows.prompt_length)]
    end = codec.tokenizer(TEMPLATE.split("}")[1])["input_ids"]
    assert all(row[-len(end) :] == end and row.count(codec.eos_id) == 2 for row in whole)
    prompts = codec.decode([row[: -len(end)] for row in whole])
    assert all(prompt.endswith("=") for prompt in prompts)
    templated = codec.with_template(TEMPLATE)
    assert templated.prompts(prompts) == whole


def test_the_oracle_judges_the_prompts_alone(run):
    assert json.loads((run / "rollout" / "done.json").read_text())["figures"]["samples"] == 32


def test_a_completion_shows_the_prompt_alone(run):
    plain = dinado_jax.load(run / "sft" / "base")
    other = dinado_jax.load(run / "sft" / "base", prompt_template=TEMPLATE)
    one, two = (
        dinado_jax.generate(base, ["dog ="], max_new_tokens=1)[0] for base in (plain, other)
    )
    assert one.prompt == two.prompt == "dog ="
    assert one.log_probs[0] != pytest.approx(two.log_probs[0], abs=1e-6)


def test_another_template_is_another_run(run):
    with pytest.raises(InputError, match=r"base\.prompt_template"):
        pipeline.run_stages(config("Q {prompt}"), STAGES[:2], run)


def test_a_template_is_checked_before_anything_is_done(run, tmp_path):
    given = [f"base.path={run / 'sft' / 'base'}", "base.prompt_template=chat", "sft.steps=0"]
    with pytest.raises(InputError, match="the tokenizer has no chat template"):
        pipeline.check(tiny_run.config(*given), ("sft",))
    with pytest.raises(InputError, match="the tokenizer has no chat template"):
        pipeline.run_stages(tiny_run.config(*given), ("sft",), tmp_path / "run")
    assert not (tmp_path / "run" / "sft").exists()

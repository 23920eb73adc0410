"""Pairs whose texts are a model's own."""

import pytest
from support import denoising, word_base
from support.folders import refused

from dinado_jax.denoising.distillation import distil
from dinado_jax.loading import load_base
from dinado_jax.tasks.protocol import Example

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = list(denoising.PAIRS)
EXAMPLES = [Example(prompt, ("one", "two")) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = word_base.write_ending(tmp_path_factory.mktemp("base"), PROMPTS)
    return load_base(str(folder))


@pytest.mark.parametrize("kind", ["base", "soft"])
def test_every_prompt_has_its_greedy_text_once(base, kind, capsys):
    teacher = base if kind == "base" else word_base.controlled(base, kind)
    texts = teacher.generate(PROMPTS, max_new_tokens=6, temperature=0.0)
    expected = [one for one in texts if one.finished and one.text.strip()]
    made = distil(teacher, [*EXAMPLES, *EXAMPLES[:2]], max_new_tokens=6, batch=8)
    assert [one.prompt for one in made] == [one.prompt for one in expected]
    assert [one.references for one in made] == [(one.text,) for one in expected]
    left_out = len(PROMPTS) - len(made)
    assert 0 < left_out < len(PROMPTS)
    said = f"{left_out} of 8 texts of the teacher are blank or do not end within 6 tokens, left out"
    assert said in capsys.readouterr().err


def test_a_teacher_whose_texts_do_not_end_is_refused(tmp_path):
    endless = load_base(str(word_base.write(tmp_path / "base")))
    told = "none of 8 texts of the teacher ends within .* tokens: raise max_new_tokens"
    refused(told, distil, endless, EXAMPLES)

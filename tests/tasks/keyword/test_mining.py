"""Keyword examples mined from plain text."""

from support.refusal import error_of

from dinado_jax.tasks import toy
from dinado_jax.tasks.keyword.format import concepts_of
from dinado_jax.tasks.keyword.lexical import lexical
from dinado_jax.tasks.keyword.mining import mine
from dinado_jax.tasks.protocol import Example


def test_mined_prompts_are_in_the_task_form_and_hold_for_their_line():
    examples = toy.examples("train", 400, 0)
    lines = [example.references[0] for example in toy.examples("test", 200, 1)]
    lines.insert(7, "Nothing of it here.")
    sizes = {len(concepts_of(example.prompt)) for example in examples}
    found = mine(lines, examples, 0)
    assert [example.references for example in found] == [
        (line,) for line in lines if line != lines[7]
    ]
    assert all(lexical([e.prompt for e in found], [e.references[0] for e in found]))
    assert max(len(concepts_of(example.prompt)) for example in found) == max(sizes)
    assert found == mine(lines, examples, 0) != mine(lines, examples, 1)


def test_mined_concepts_are_those_prompts_name_most():
    """ "walking" is a form of both concepts, and two prompts name the verb."""
    prompts = ["walk dog =", "walk cat =", "walking man ="]
    examples = [Example(prompt, ("any",)) for prompt in prompts]
    concepts = {
        concept
        for example in mine(["A man is walking his dogs."] * 50, examples, 0)
        for concept in concepts_of(example.prompt)
    }
    assert concepts == {"walk", "man", "dog"}


def test_text_without_any_concept_is_refused():
    assert "none of its 2 lines" in error_of(
        mine, ["one", "two"], [Example("dog =", ("a dog",))], 0
    )

"""What constraints and expressions want of a text, and where it has that."""

import pytest

from dinado_jax.constraints import AllOf, at_most_words, contains
from dinado_jax.oracles.expression import find_oracle
from dinado_jax.oracles.table import ORACLES, NamedOracle


def found(wanted_in, text, prompt="dog red ="):
    """What is marked, and what is lacking."""
    wanted = wanted_in(prompt, text)
    marked = sorted(span for each in wanted for span in each.spans)
    return [text[slice(*span)] for span in marked], [w.name for w in wanted if not w.present]


@pytest.mark.parametrize(
    "expression, marked, lacking",
    [
        ("keywords & length <= 20 & !contains('cat')", ["dogs", "Red"], []),
        ("contains('dog', inflected=true) & contains('hot dog')", ["dogs"], ["hot dog"]),
        ("contains('the red')", ["the Red"], []),
        ("in_order('two', 'red')", ["Two", "Red"], []),
        ("any_of_words('cat', 'two')", ["Two"], []),
        ("any_of_words('cat', 'fox')", [], ["cat or fox"]),
        ("contains('two', 'cat') | contains('fox')", ["Two"], ["two and cat or fox"]),
        ("contains('cat') | length <= 3", [], []),
        ("!contains('two')", None, None),
        ("without('cat')", None, None),
        ("length <= 20", None, None),
        ("mean(keywords, contains('fox'))", ["dogs", "Red"], ["fox"]),
        ("product(contains('two'), contains('two', 'fox'))", ["Two"], ["fox"]),
        ("keywords & wanting.py:long", ["dogs", "Red"], []),
        ("contains('fox') | wanting.py:long", [], []),
        ("wanting.py:long", None, None),
        ("wanting.py:dog", [], ["dog"]),
    ],
)
def test_words_of_expressions(expression, marked, lacking, tmp_path, monkeypatch):
    source = "from dinado_jax.constraints import contains\ndog = contains('dog')\n"
    source += "def long(prompts, texts):\n    return [True] * len(texts)\nlong.wanted = print\n"
    (tmp_path / "wanting.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    wanted_in = find_oracle(expression).wanted_in
    if marked is None:
        assert wanted_in is None
    else:
        assert found(wanted_in, "Two dogs, the Red ones.") == (marked, lacking)


def test_words_of_constraints_composed_in_python():
    oracle = AllOf(ORACLES["lexical"], contains("hot dog") & at_most_words(9))
    wanted_in = NamedOracle("mine", oracle).wanted_in
    assert found(wanted_in, "hot dogs, a red hot dog")[0] == ["dogs", "red", "hot dog", "dog"]
    assert found(wanted_in, "a cat") == ([], ["dog", "red", "hot dog"])

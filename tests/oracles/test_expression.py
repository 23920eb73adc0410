"""Expressions of oracles: what they mean, what automata they have, and how bad ones are refused."""

import importlib.metadata
import random
import re
import sys

import numpy as np
import pytest
import support
from support.refusal import error_of

from dinado_jax.constraints import Constraint
from dinado_jax.oracles.combined import WordCount
from dinado_jax.oracles.expression import ELEMENTS, find_oracle, is_own
from dinado_jax.oracles.judge import judge
from dinado_jax.oracles.table import GROUP

SOURCE = """
from dinado_jax.constraints import contains

dog = contains("dog")


def share(prompts, texts):
    return [text.split().count("red") / max(1, len(text.split())) for text in texts]


def long(prompts, texts):
    return [min(1, len(text.split()) / 8) for text in texts]


def no_cat(prompts, texts):
    if any("cat" in text for text in texts):
        raise ValueError("a cat")
    return [True] * len(texts)


def nothing(prompts, texts):
    pass
"""
WORDS = ["dog", "dogs", "cat", "red", "ran", "The", "the", ".", "?", "not", "x"]
DRAW = random.Random(5)
TEXTS = [" ".join(DRAW.choices(WORDS, k=DRAW.randrange(9))) for _ in range(400)]
PROMPTS = [DRAW.choice(["dog =", "cat red =", "run ="]) for _ in TEXTS]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labels(expression):
    result = judge(find_oracle(expression).function, PROMPTS, TEXTS)
    assert not result.failures
    return result.labels


def words(text):
    return [word for word in text.split() if word.isalnum()]


def keywords(prompt, text):
    forms = {"dog": {"dog", "dogs"}, "cat": {"cat"}, "red": {"red"}, "run": {"ran"}}
    return all(forms[concept] & {*words(text)} for concept in prompt.split()[:-1])


def share(text):
    return text.split().count("red") / max(1, len(text.split()))


DECIDED = {  # an expression, and what it means of a prompt and a text
    "keywords": keywords,
    "lexical & length<=4": lambda p, t: keywords(p, t) and len(words(t)) <= 4,
    "keywords & length<=5 & !contains('not')": lambda p, t: (
        keywords(p, t) and len(words(t)) <= 5 and "not" not in words(t)
    ),
    "keywords | starts_with('The')": lambda p, t: keywords(p, t) or t.startswith("The"),
    "keywords | contains('x') & length > 2": lambda p, t: (
        keywords(p, t) or ("x" in words(t) and len(words(t)) > 2)
    ),
    "contains('dog', 'cat')": lambda p, t: {"dog", "cat"} <= {*words(t)},
    "contains('dog', inflected=true)": lambda p, t: bool({"dog", "dogs"} & {*words(t)}),
    "contains('red dog')": lambda p, t: " red dog " in f" {' '.join(words(t))} ",
    "any_of_words('dog', 'cat')": lambda p, t: bool({"dog", "cat"} & {*words(t)}),
    "without('the')": lambda p, t: "the" not in t.lower().split(),
    "in_order('red', 'dog')": lambda p, t: (
        "red" in words(t) and "dog" in words(t)[words(t).index("red") :]
    ),
    "pattern('(?:.*[.?])?')": lambda p, t: not t or t[-1] in ".?",
    'starts_with("The", "dog")': lambda p, t: t.startswith(("The", "dog")),
    "ends_with('?', '. .')": lambda p, t: t.endswith(("?", ". .")),
    "length == 3": lambda p, t: len(words(t)) == 3,
    "length != 3": lambda p, t: len(words(t)) != 3,
    "length == 0 or length >= 7": lambda p, t: len(words(t)) == 0 or len(words(t)) >= 7,
    "mine.py:dog & length < 4": lambda p, t: "dog" in words(t) and len(words(t)) < 4,
}
LABELLED = {
    "!keywords": lambda p, t: not keywords(p, t),
    "mine.py:share": lambda p, t: share(t),
    "mine.py:share & mine.py:long": lambda p, t: min(share(t), len(t.split()) / 8),
    "mine.py:share | mine.py:long": lambda p, t: max(share(t), len(t.split()) / 8),
    "!mine.py:share": lambda p, t: 1 - share(t),
    "not mine.py:share & contains('dog')": lambda p, t: (1 - share(t)) * ("dog" in words(t)),
    "product(mine.py:share, mine.py:long, keywords)": lambda p, t: (
        share(t) * len(t.split()) / 8 * keywords(p, t)
    ),
    "mean(mine.py:share, keywords)": lambda p, t: (share(t) + keywords(p, t)) / 2,
    "mean(3 * mine.py:share, 0.5 * length <= 2, 1 * keywords | contains('x'))": lambda p, t: (
        (3 * share(t) + 0.5 * (len(words(t)) <= 2) + (keywords(p, t) or "x" in words(t))) / 4.5
    ),
    "mine.py:long >= 0.5 & keywords": lambda p, t: len(t.split()) >= 4 and keywords(p, t),
    "not mine.py:share": lambda p, t: 1 - share(t),
    "contains('x') or keywords and mine.py:share": lambda p, t: max(
        "x" in words(t), keywords(p, t) and share(t)
    ),
    "length < 3 or mine.py:share": lambda p, t: max(len(words(t)) < 3, share(t)),
    "mine.py:long < 0.5": lambda p, t: len(t.split()) < 4,
}


@pytest.mark.parametrize("expression", [*DECIDED, *LABELLED])
def test_it_means_what_the_same_in_python_does(expression):
    meaning = {**DECIDED, **LABELLED}[expression]
    expected = [meaning(*each) for each in zip(PROMPTS, TEXTS)]
    np.testing.assert_allclose(labels(expression), expected, atol=1e-6)
    assert len({*labels(expression)}) > 1


@pytest.mark.parametrize("expression", DECIDED)
def test_automata_accept_what_is_satisfied(expression):
    found = find_oracle(expression)
    assert found.automata_of is not None and not found.undecided
    accepted = [
        all(each.satisfied_by(text) for each in found.automata_of(prompt))
        for prompt, text in zip(PROMPTS, TEXTS)
    ]
    assert accepted == labels(expression).astype(bool).tolist()
    assert found.automata_of("dog =") == found.automata_of("dog =")  # each is compiled once


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("keywords & mine.py:share", "mine.py:share"),
        ("contains('dog') & (length < 3 | ! mine.py:share)", "mine.py:share"),
        ("keywords & !keywords", "!keywords"),
        ("keywords | mean(contains('dog'), length  < 3)", "mean(contains('dog'), length < 3)"),
        ("product(keywords, keywords) & (length < 3)", "product(keywords, keywords)"),
    ],
)
def test_a_part_that_no_automata_decide_is_named(expression, part):
    assert find_oracle(expression).undecided == part


def test_precedence_and_parentheses():
    atoms = ["contains('dog')", "contains('cat')", "length < 4"]

    def same(one, other):
        assert find_oracle(one).function.name == find_oracle(other).function.name

    for a, b, c in (atoms, atoms[1:] + atoms[:1]):
        same(f"{a} | {b} & {c}", f"({a}) | (({b}) & {c})")
        same(f"{a} & {b} | {c}", f"({a} & {b}) | {c}")
        same(f"! {a} & {b}", f"(!({a})) & {b}")
        same(f"!!{a} & {b}", f"not (not {a}) and {b}")
        same(f"{a}&{b}|!{c}", f"(({a} and {b}) or not {c})")
        assert (labels(f"({a} | {b}) & {c}") != labels(f"{a} | {b} & {c}")).any()
        assert (labels(f"!({a} & {b})") != labels(f"! {a} & {b}")).any()
    assert isinstance(find_oracle("(((length < 4)))").function, Constraint)
    assert (
        find_oracle("(length < 4 | keywords) & keywords").parts[0].name == "length < 4 | keywords"
    )


def test_lengths_beyond_automata_are_counted_alike():
    """Constraints of up to 150 words count by automata, longer ones by the same rule without."""
    pieces = [
        "dog",
        "don't",
        "hot-dog",
        "caf\u00e9",
        "'",
        "ca n't",
        "n't",
        "3",
        "\u0928\u092e",
        "-",
    ]
    draw = random.Random(2)
    texts = [" ".join(draw.choices(pieces, k=120)) for _ in range(50)]
    for comparison in ("<", "<=", ">", ">=", "==", "!="):
        for count in (110, 150):
            automaton = find_oracle(f"length {comparison} {count}").function
            counted = WordCount("", comparison, count)
            assert isinstance(automaton, Constraint)
            assert judge(automaton, [""] * 50, texts).labels.tolist() == (
                counted([""] * 50, texts).tolist()
            )
    long = find_oracle("contains('dog') & length <= 200")
    assert long.undecided == "length <= 200"
    texts = ["dog " * 200, "dog " * 201, "cat " * 200]
    assert judge(long.function, [""] * 3, texts).labels.tolist() == [1, 0, 0]


def test_a_text_that_is_settled_is_asked_nothing_more():
    """As with `and` and `or`: a part need not understand what the parts before it exclude."""
    texts = ["cat", "dog"]
    for expression, expected in [
        ("!contains('cat') & mine.py:no_cat", [0, 1]),
        ("contains('cat') | mine.py:no_cat", [1, 1]),
        ("product(length > 1, mine.py:no_cat)", [0, 0]),
    ]:
        result = judge(find_oracle(expression).function, ["", ""], texts)
        assert result.labels.tolist() == expected and not result.failures
    result = judge(find_oracle("mine.py:no_cat & !contains('cat')").function, ["", ""], texts)
    assert result.errors.tolist() == ["ValueError", ""] and result.labels[1] == 1
    assert "a cat (mine.py, line 17)" in result.message


def test_an_answer_that_is_no_label_is_told_of_its_part():
    said = error_of(judge, find_oracle("keywords & mine.py:nothing").function, ["x ="], ["x"])
    assert said.startswith("oracle nothing, returned None for 1 texts: write it as function(")


def test_prompts_are_checked_for_keywords():
    check = find_oracle("length < 3 & (keywords | mine.py:share)").check_prompts
    check({"file:1": "dog ="})
    assert error_of(check, {"file:1": "dog"}).startswith("file:1, prompt 'dog'")


REFUSED = {
    "keywords & & x": "character 12: expected '!', '(' or a name, not '&'",
    "keywords &": "character 11: expected '!', '(' or a name, not the end",
    "& keywords": "character 1: expected '!', '(' or a name, not '&'",
    "(keywords": "character 10: expected '(', ')', '|', '&' or a comparison, not the end",
    "keywords)": "character 9: expected '(', '|', '&', a comparison or the end, not ')'",
    "()": "character 2: expected '!', '(' or a name, not ')'",
    "length <": "character 9: expected a number, not the end",
    "length <= x": "character 11: expected a number, not 'x'",
    "length = 3": "character 8: expected",
    "length <= 20 20": "character 14: expected '|', '&' or the end, not '2'",
    "length < -1": "character 10: expected a number, not '-'",
    "length <= 2.5": "character 11: a number of words, not 2.5: give a whole number",
    "length": "character 1: length is a number of words: compare it, as length <= 20",
    "length < 0": "no text has so few",
    "length >= 0 & keywords": "every text has so many",
    f"length <= {'9' * 5000}": "character 11: no text has so many words: give a smaller number",
    "keywords && length < 3": "not '&': write & once",
    "contains(\u2018a\u2019)": "write quotation marks as ' or \"",
    "length =< 3": "comparisons are <, <=, ==, !=, >= and >",
    "keywords('a')": "character 1: keywords takes nothing in parentheses: write keywords",
    "mentions_colour(keywords)": "mentions_colour takes nothing in parentheses: write mentions_c",
    "length('a')": "character 1: length is a number of words: compare it, as length <= 20",
    "pattern('[[a]')": "Possible nested set at position 1: write it as for Python's re",
    f"mean({'9' * 400} * keywords, mine.py:share)": "too large for their sum: give smaller ones",
    "contains('a": "character 10: a text that does not end: add another '",
    'keywords & contains("a': 'character 21: a text that does not end: add another "',
    "contains('a' 'b')": "character 14: expected ')' or ',', not \"'\"",
    "contains('a',)": "character 14: expected a name or a text in quotes, not ')'",
    "contains(a)": "character 1: contains takes texts in quotes: write contains('..')",
    "keywords & contains": "character 12: contains takes texts in quotes: write contains('..')",
    "contains()": "character 1: contains(), no words: give at least one",
    "contains('?')": "character 1: contains('?'), '?': give a word, not punctuation",
    "contains('a', inflect=true)": "contains('..', inflected=false): got an unexpected keyword arg",
    "contains('a', inflected=1)": "character 25: expected a name, not '1'",
    "contains('a', inflected=yes)": "character 15: inflected = yes: it must be true or false",
    "contians('a')": "character 1: 'contians', no such element: did you mean contains?",
    "length<3 & keyword": "character 12: 'keyword', no such oracle: did you mean keywords?",
    "mention_colour | length<3": "'mention_colour', no such oracle: did you mean mentions_colour?",
    "tokens < 3": "character 1: 'tokens', no such oracle: one of keywords, length, contains",
    "mine.py & keywords": "no such oracle: add the name of its function, mine.py:FUNCTION",
    "mine.py:shre & keywords": "mine.py has no function shre: did you mean share?",
    "nowhere:f & keywords": "No module named 'nowhere'",
    "a:b:c & keywords": "character 4: expected",
    "pattern('(') & keywords": "character 1: pattern('('), missing ), unterminated subpattern",
    "pattern('a', 'b')": "character 1: pattern('..'): too many positional arguments",
    "starts_with('')": "nothing to look for: give at least one character",
    "ends_with('a ')": "leave out the white space at its end",
    "keywords > 0.5": "character 1: keywords is true or false: leave out > 0.5",
    "(length < 3) > 0.5": "length < 3 is true or false: leave out > 0.5",
    "mine.py:share > 1": "labels are in [0, 1], so that no text satisfies it: correct 1",
    "mine.py:share >= 0": "labels are in [0, 1], so that every text satisfies it: correct 0",
    "mine.py:share == 1": "labels are compared by <, <=, > or >=: write one of them",
    "mean": "character 1: mean combines oracles: write mean(keywords, ..)",
    "mean('a', 'b')": "character 1: mean combines oracles: write mean(keywords, ..)",
    "maen(keywords)": "character 1: 'maen', no such combination: did you mean mean?",
    "mean(0 * keywords)": "a weight of 0: leave out what has it",
    "product(2 * keywords)": "character 9: a product has no weights: leave it out",
    "contains('dog') & !contains('dog')": "no text satisfies it: correct it",
    "keywords & (length > 3 & length < 2)": "character 13: (at_least_words(4) & at_most_words(1))",
    "contains('dog') | !contains('dog')": "every text satisfies it, so that it asks for nothing",
    "length < 3 | length > 1": "every text satisfies it",
    "pattern('(?s).*')": "every text satisfies it",
    "!" * 60 + "keywords": "nested more than 50 levels deep",
    "length<2 & " * 1000 + "keywords": "longer than 10,000 characters",
    "keywords ? x": "character 10: expected",
    "keywords; length < 3": "character 9: expected",
    "keywords == 'a'": 'character 13: expected a number, not "\'"',
    " ": "character 2: expected '!', '(' or a name, not the end",
}


@pytest.mark.parametrize("expression", REFUSED, ids=lambda each: each[:40])
def test_bad_expressions_are_refused_in_a_line(expression):
    assert REFUSED[expression] in error_of(find_oracle, expression)


def test_mutated_expressions_are_taken_or_refused_in_a_line():
    """Whatever is left out, doubled, exchanged or put in between."""
    whole = "keywords & (length<=20 | !contains('not', inflected=true)) & mean(0.5 * lexical)"
    pieces = [
        *"&|!()<>=*,'\" .:\n\\\x00é7",
        "and",
        "not ",
        "contains",
        "mean(",
        "length",
        "mine.py:share",
    ]
    draw, refused = random.Random(7), 0
    for _ in range(150):
        text = whole
        for _ in range(draw.randrange(1, 4)):
            at, end = sorted(draw.choices(range(len(text) + 1), k=2))
            text = draw.choice(
                [
                    text[:at] + text[at + 1 :],
                    text[:at] + draw.choice(pieces) + text[at:],
                    text[at:end],
                ]
            )
        try:
            found = find_oracle(text)
        except Exception as error:
            assert type(error).__name__ == "InputError" and "\n" not in str(error), text
            refused += 1
        else:
            judge(found.function, ["dog ="], ["a dog"])
    assert 50 < refused < 150


def test_all_that_the_page_names_can_be_written():
    page = (support.ROOT / "docs" / "expressions.md").read_text()
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    written = [each for row in rows for each in re.findall("`([^`]+)`", row)]
    elements = [each for each in written if each.partition("(")[0] in ELEMENTS]
    assert {each.partition("(")[0] for each in elements} == ELEMENTS.keys()
    for each in [*elements, "length <= 20", "keywords", "mentions_colour"]:
        if each.startswith("classifier"):
            assert "in DIR, where a classifier is looked for" in error_of(find_oracle, each)
        else:
            assert each in written and find_oracle(each)


def test_names_are_no_expressions(here):
    assert find_oracle("lexical").name == find_oracle("keywords").name == "lexical"
    (here / "of mine.py").write_text(SOURCE)
    assert find_oracle("of mine.py:share").function([""], ["red"]) == [1]
    assert "was given to dinado_jax.fit" in error_of(find_oracle, "callable <lambda>")
    assert "did you mean lexical?" in error_of(find_oracle, "lexicl")


def test_a_package_registers_an_oracle(here, monkeypatch):
    point = importlib.metadata.EntryPoint("polite-one", "mine:share", GROUP)
    wrong = importlib.metadata.EntryPoint("broken", "mine:missing", GROUP)
    both = importlib.metadata.EntryPoints([point, wrong])
    monkeypatch.syspath_prepend(here)  # before folders of other tests with such a file
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: both.select(group=group))
    assert find_oracle("polite-one").function([""], ["red"]) == [1]
    expected = [min(share(text), keywords(*each)) for *each, text in zip(PROMPTS, TEXTS, TEXTS)]
    np.testing.assert_allclose(labels("polite-one & keywords"), expected, atol=1e-6)
    assert "did you mean polite-one?" in error_of(find_oracle, "polite_one & keywords")
    assert "did you mean polite-one?" in error_of(find_oracle, "polite-on")
    said = error_of(find_oracle, "broken & keywords")
    assert "'broken', registered as 'mine:missing', mine has no function missing" in said


def test_values_of_entry_points(here, monkeypatch):
    """Names within classes, extras, and what two packages register."""
    (here / "apart.py").write_text(SOURCE + "\nclass Inner:\n    share = staticmethod(share)\n")
    values = {"inner": "apart:Inner.share", "extra": "apart:share [more]", "odd": "apart"}
    points = [importlib.metadata.EntryPoint(*each, GROUP) for each in values.items()]
    points += [importlib.metadata.EntryPoint("both", f"apart:{name}", GROUP) for name in "ab"]
    monkeypatch.syspath_prepend(here)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    for name in ("inner", "extra"):
        assert find_oracle(name).function([""], ["red"]) == [1]
    said = error_of(find_oracle, "both")
    assert "oracle 'both' is registered as apart:a and as apart:b: write the one" in said
    assert "'odd', registered as 'apart', no such oracle: give" in error_of(find_oracle, "odd")


def test_weights_that_sum_to_a_limit_reach_it():
    whole = "a b c d e f g h i j"
    ten = ", ".join(f"contains('{letter}')" for letter in whole.split())
    three = "mean(7*contains('a'), 2*contains('b'), 1*contains('c'))"
    for expression in (f"mean({ten}) >= 1", f"{three} >= 1", f"{three} > 0.99"):
        assert find_oracle(expression).function([""], [whole]).tolist() == [True]
    for text, expected in (("a b", [False]), ("b c", [True])):
        assert find_oracle(f"{three} <= 0.3").function([""], [text]).tolist() == expected


def test_too_many_alternatives_are_refused_at_once():
    some = [f"contains('a{n}', 'b{n}', 'c{n}')" for n in range(6)]
    assert find_oracle(" | ".join(some[:3])).function([""], ["a1 b1 c1"]) == [True]
    assert "it has 81 clauses, and 64 are the most" in error_of(find_oracle, " | ".join(some))
    whole = "!(" + " & ".join(f"any_of_words('a{n}', 'b{n}')" for n in range(7)) + ")"
    assert find_oracle(whole).function([""], ["a1 b2"]) == [True]


def test_options_once_and_names_nearly_right():
    said = error_of(find_oracle, "contains('a', inflected=true, inflected=false)")
    assert "inflected is there twice" in said
    assert "did you mean keywords?" in error_of(find_oracle, "keyword")
    assert "write classifier('FOLDER')" in error_of(find_oracle, "classifier:judges/a & keywords")


def test_what_is_made_of_nothing_but_this_package(monkeypatch):
    assert (
        is_own("lexical") and is_own("keywords & length < 3") and is_own("mean(2*contains('a:b'))")
    )
    assert not is_own("mine.py:share") and not is_own("keywords & !mine.py:share")
    assert not is_own("keywords & polite") and not is_own("keywords &") and not is_own("polite")
    assert not is_own("classifier('DIR') > 0.5") and not is_own("classifier:DIR")

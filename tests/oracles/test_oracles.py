"""Oracles: the lexical one, judging with failures isolated, and finding oracles by name."""

import io
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import support

from dinado_jax.errors import InputError
from dinado_jax.oracles.judge import (
    check_oracle,
    judge,
    require_labels,
    resolve,
)
from dinado_jax.tasks.keyword.lexical import (
    coverage,
    forms,
    lexical,
    present,
    words,
)


def error_of(function, *args) -> str:
    with pytest.raises(InputError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The lexical oracle


def test_forms_are_the_inflections_of_every_part_of_speech():
    assert {"chase", "chases", "chasing", "chased"} <= forms("chase")
    assert {"child", "children"} <= forms("Child")
    assert {"run", "ran", "running"} <= forms("run")
    assert {"dog", "dogs", "dogging"} <= forms("dog")
    assert forms("Blorf") == {"blorf", "blorfs", "blorfed", "blorfing"}
    assert "dogging" in forms("dog") and "doged" not in forms("dog")
    assert "'--'" in error_of(forms, "--")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Two DOGS, running.", ["two", "dogs", "running"]),
        ("the dog's ball", ["the", "dog", "s", "ball"]),
        ("hot-dogs_at 7pm", ["hot", "dogs", "at", "7pm"]),
        ("he won't, she don\u2019t", ["he", "won't", "she", "don't"]),
        ("Ünïcode café", ["ünïcode", "café"]),
        (" .", []),
    ],
)
def test_words(text, tokens):
    assert words(text) == tokens


@pytest.mark.parametrize(
    ("concept", "text", "expected"),
    [
        ("cat", "A category of its own.", False),
        ("cat", "Cats!", True),
        ("cat", "a cat-like robot", True),
        ("dog", "the dog's bowl", True),
        ("dog", "the dog\u2019s bowl", True),
        ("win", "She won.", True),
        ("win", "She won't.", False),
        ("hot-dog", "he eats a hot-dog", True),
        ("hot-dog", "he eats a hot dog", True),
        ("hot-dog", "a dog is hot", False),
        ("t-shirt", "a red T-shirt", True),
        ("t-shirt", "a red shirt", False),
        ("t-shirt", "two red T-shirts", True),
        ("selfie", "they take selfies", True),
        ("Dog", "a dog", True),
        ("dog", "", False),
    ],
)
def test_present(concept, text, expected):
    assert present([concept], text) == [expected]


def pairs(name: str) -> list[tuple[str, str]]:
    """(concept, word) of a table beside this file with lines "concept: word word"."""
    lines = (support.SUPPORT / name).read_text(encoding="utf-8").splitlines()
    rows = (line.split(": ") for line in lines if line and not line.startswith("#"))
    return [(concept, word) for concept, found in rows for word in found.split()]


def test_the_table_of_forms_is_accepted():
    table = pairs("inflections.txt")
    assert len(set(table)) == len(table) >= 1600
    assert [(c, form) for c, form in table if present([c], f"Lo, {form} !") != [True]] == []


def test_no_look_alike_is_accepted():
    table = pairs("look_alikes.txt")
    assert len(set(table)) == len(table) >= 600
    assert [(c, word) for c, word in table if present([c], f"Lo, {word} !") != [False]] == []


def test_misspelt_forms_are_not_accepted():
    wrong = (
        "mimic: mimiced mimicing, ox: oxes oxed oxs, child: childs childrens, tooth: tooths, "
        "person: peoples persones, go: goed gos wented, do: doed, be: bes beed, have: haved, "
        "run: runned runing ranned, teach: teached, mother-in-law: mother-in-laws mother-in-lawed, "
        "passer-by: passer-bies passer-bied passer-bys, man-of-war: man-of-wars, hope: hopped, "
        "refer: refered refering, control: controled controling, occur: occured, ski: skiis, "
        "hot-dog: hot-doged, dog: doged doging, knife: knive, wolf: wolfes, pay: payed, "
        "quiz: quizes quized, panic: paniced, study: studys studyed, criterion: criterias, "
        "visit: visitted, open: openned, photo: photoes, piano: pianoes, potato: potatos, "
        "fireman: firemans, monkey: monkies, half: halfs, bend: bended"
    )
    for row in wrong.split(", "):
        concept, found = row.split(": ")
        assert not forms(concept) & {*found.split()}, concept


def test_a_concept_that_is_an_inflected_form_is_its_own_lemma():
    assert forms("went") == {"went"}
    assert "leave" not in forms("left") and "find" not in forms("found")
    assert {"found", "founded", "founding"} <= forms("found")
    assert present(["went", "people"], "They go to a person") == [False, False]


@pytest.mark.parametrize(
    ("concept", "text"),
    [
        ("dog", "the dog\u02bcs bowl"),
        ("dog", "the dog`s bowl"),
        ("dog", "the dog\u00b4s bowl"),
        ("dog", "the dog\uff07s bowl"),
        ("dog", "the dog 's bowl"),
        ("dog", "the \uff44\uff4f\uff47 barks"),
        ("dog", "a d\u00ado\u00adg"),
        ("dog", "a do\u200bg, a \ufeffcat"),
        ("dog", "\ufeffdog"),
        ("do\u200dg\ufeff", "two dogs"),
        ("dog", "the Dog\u2122 barks"),
        ("dog", "a dog\u00b2 barks"),
        ("dog", "dog\u2014cat"),
        ("dog", "dog\u2026"),
        ("fish", "two \ufb01shes"),
        ("\ufb02y", "it flies"),
        ("cafe", "a caf\u00e9"),
        ("caf\u00e9", "two cafes"),
        ("caf\u00e9", "two cafe\u0301s"),
        ("cafe\u0301", "two CAF\u00c9S"),
        ("encyclopaedia", "two encyclop\u00e6dias"),
        ("stra\u00dfe", "die STRASSE"),
        ("strasse", "die Stra\u00dfe"),
        ("istanbul", "\u0130stanbul"),
        ("\u0130zmir", "in izmir"),
        ("fish", "F\u0130SH"),
        ("hot-dog", "a hot\u2011dog"),
        ("hot\u2011dog", "a hot-dog"),
        ("hot\u2010dog", "two hot dogs"),
        ("hot\u2013dog", "two hot\u2212dogs"),
        ("hot-dog", "a hotdog"),
        ("hotdog", "two hot-dogs"),
        ("hotdog", "two hot\u2011dogs"),
        ("mother-in-law", "his mother\u2010in\u2010law's house"),
        ("mother-in-law", "two mothers in law"),
        ("o'clock", "at five o\u2019clock"),
        ("o\u2019clock", "at five o'clock"),
        ("don't", "I don\u2019t"),
        ("don\u2019t", "I do n't"),
        ("won't", "I won 't"),
        ("\uff24og", "a dog"),
    ],
)
def test_both_sides_are_compared_in_one_spelling(concept, text):
    assert present([concept], text) == [True]


NEGATIONS = ["won{}t", "wo n{}t", "won {}t", "won {} t", "WON{}T"]


@pytest.mark.parametrize("mark", "'\u2018\u2019\u02bc`\u00b4\uff07\u2032\u201b")
def test_negations_hold_no_other_word(mark):
    for negation in NEGATIONS:
        text = f"She {negation.format(mark)} go."
        assert words(text) == ["she", "won't", "go"], text
        assert present(["win", "won't", "go"], text) == [False, True, True]
    assert (
        present(["can", "do", "be"], f"I can {mark}t, we do n{mark}t, it isn {mark}t")
        == [False] * 3
    )


@pytest.mark.parametrize(
    ("concept", "text"),
    [
        ("notable", "He is not able, at no table."),  # joined only over a hyphen
        ("carpet", "a car pet"),
        ("hotdog", "a hot dog"),
        ("dog", "a \u00addogma"),
        ("man", "a wo\u00adman"),
        ("cat", "a cat\u200begory"),
        ("hotdog", "hot\u2014dog"),
    ],
)
def test_what_no_spelling_makes_a_form(concept, text):
    assert present([concept], text) == [False]


def test_a_vocabulary_is_inflected_within_seconds():
    vocabulary = {
        concept for name in ("inflections.txt", "look_alikes.txt") for concept, _ in pairs(name)
    }
    forms.cache_clear()
    start = time.perf_counter()
    for concept in vocabulary:
        forms(concept)
    assert time.perf_counter() - start < 10 * len(vocabulary) / 1000
    hits = forms.cache_info().hits
    forms(min(vocabulary))
    assert forms.cache_info().hits == hits + 1


def test_coverage_and_the_oracle():
    prompt = "dog chase ball ="
    assert coverage(prompt, "Two dogs chased the cat.") == pytest.approx(2 / 3)
    texts = ["Dogs are chasing balls.", "Dogs are chasing cats.", "Balls chase a dog"]
    assert lexical([prompt] * 3, texts) == [True, False, True]
    assert lexical([], []) == []
    error_of(lexical, ["dog chase"], ["a dog"])


def test_inflections_raise_no_warning_and_need_neither_spacy_nor_jax():
    code = (
        "import sys; from dinado_jax.oracles.lexical import forms; assert 'ran' in forms('run'); "
        "assert not {'spacy', 'jax'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


# Judging

PROMPTS, TEXTS = ["p ="] * 3, ["good", "bad", "good"]


def contains_good(prompts, texts):
    return [text == "good" for text in texts]


@pytest.mark.parametrize(
    "answer", [[True, False, 0.25], (1, 0, 0.25), np.array([1, 0, 0.25], np.float16)]
)
def test_answers_of_every_kind_become_labels(answer):
    result = judge(lambda prompts, texts: answer, PROMPTS, TEXTS)
    assert result.labels.dtype == np.float32 and result.failed.dtype == bool
    np.testing.assert_array_equal(result.labels, np.float32([1, 0, 0.25]))
    assert not result.failed.any() and result.failures == 0


def test_the_whole_batch_is_one_call():
    calls = []

    def oracle(prompts, texts):
        calls.append((prompts, texts))
        return contains_good(prompts, texts)

    judge(oracle, tuple(PROMPTS), tuple(TEXTS))
    assert calls == [(PROMPTS, TEXTS)]


def test_an_exception_stays_with_its_sample():
    def oracle(prompts, texts):
        if "bad" in texts:
            raise RuntimeError("cannot judge")
        return contains_good(prompts, texts)

    labels, errors, message = result = judge(oracle, PROMPTS, TEXTS)
    np.testing.assert_array_equal(result.failed, [False, True, False])
    assert errors.tolist() == ["", "RuntimeError", ""] and "cannot judge" in message
    np.testing.assert_array_equal(labels, np.float32([1, np.nan, 1]))
    assert labels.dtype == np.float32 and result.failures == 1


def test_an_oracle_that_always_raises():
    def broken(prompts, texts):
        raise KeyError("first\nline")

    result = judge(broken, PROMPTS, TEXTS)
    assert np.isnan(result.labels).all() and result.failures == 3
    message = error_of(require_labels, broken, result)
    assert "broken" in message and "all 3 samples" in message
    assert "KeyError" in message and "first" in message


@pytest.mark.parametrize(
    "answer",
    [
        [True, False],
        [[True], [False], [True]],
        [[1], [1, 0], [1]],
        1.0,
        None,
        [1.0, float("nan"), 0.0],
        [0.0, 1.5, 0.0],
        [0.0, -0.1, 0.0],
        ["yes", "no", "yes"],
        [True, None, False],
    ],
)
def test_answers_that_are_no_labels(answer):
    def odd(prompts, texts):
        return answer

    message = error_of(judge, odd, PROMPTS, TEXTS)
    assert "odd" in message and "[0, 1]" in message


def test_wrong_answers_for_single_samples_are_refused_too():
    def oracle(prompts, texts):
        if len(texts) > 1:
            raise RuntimeError("one at a time")
        return [2.0]

    assert "2.0" in error_of(judge, oracle, PROMPTS, TEXTS)


def test_an_interrupt_passes():
    def interrupted(prompts, texts):
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            judge(interrupted, PROMPTS, TEXTS)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_what_an_oracle_does_to_its_lists_is_its_own_affair():
    """The retry, and whoever called, see what they gave."""
    prompts, texts, seen = list(PROMPTS), list(TEXTS), []

    def careless(prompts, texts):
        seen.append((tuple(prompts), tuple(texts)))
        prompts.clear()
        texts.sort()
        if len(texts) > 1:
            raise RuntimeError("after it has changed them")
        return [texts.pop() == "good"]

    result = judge(careless, prompts, texts)
    np.testing.assert_array_equal(result.labels, [1, 0, 1])
    assert (prompts, texts) == (PROMPTS, TEXTS)
    assert seen == [(tuple(PROMPTS), tuple(TEXTS)), *[(("p =",), (text,)) for text in TEXTS]]


def test_an_answer_that_is_changed_later_stays_as_it_was():
    kept = np.zeros(3, np.float32)

    def reusing(prompts, texts):
        kept[:] = contains_good(prompts, texts)
        return kept

    first = judge(reusing, PROMPTS, TEXTS)
    judge(reusing, PROMPTS, ["bad"] * 3)
    np.testing.assert_array_equal(first.labels, [1, 0, 1])


def test_masked_answers_are_failures_and_the_others_stand():
    answer = np.ma.masked_array([1.0, 7.0, 0.0], [False, True, False])
    result = judge(lambda prompts, texts: answer, PROMPTS, TEXTS)
    np.testing.assert_array_equal(result.labels, [1, np.nan, 0])
    np.testing.assert_array_equal(result.failed, [False, True, False])


def test_labels_that_rounding_put_outside_are_clipped():
    result = judge(lambda prompts, texts: np.float32([1 + 1e-7, -1e-9, 0.5]), PROMPTS, TEXTS)
    np.testing.assert_array_equal(result.labels, np.float32([1, 0, 0.5]))


class Hostile:
    """Every use of it raises, with an escape sequence in the message."""

    def _raise(self, *_, **__):
        raise ValueError("\x1b[2Jsecret")

    __array__ = __len__ = __iter__ = __bool__ = __str__ = __repr__ = _raise


@pytest.mark.parametrize(
    "answer, said",
    [
        (None, "returned None"),
        ({0: True}, "returned dict"),
        ({True, False}, "returned set"),
        ("yes", "returned str"),
        ((x for x in [True, False, True]), "returned generator"),
        (Hostile(), "cannot become an array"),
        ([Hostile()] * 3, "cannot become an array"),
        ([10**400] * 3, "answer"),
        ([1j] * 3, "complex"),
        (["\x1b[31m" + "x" * 100_000] * 3, "answer of type"),
    ],
)
def test_answers_are_described_in_one_printable_line(answer, said):
    message = error_of(judge, lambda prompts, texts: answer, PROMPTS, TEXTS)
    assert said in message and message.isprintable() and len(message) < 600


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no message")


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(0),
        SystemExit("bye"),
        GeneratorExit(),
        MemoryError(),
        RecursionError(),
        StopIteration(),
        Unreadable(),
        Warning("a warning made an error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nothing_that_an_oracle_raises_ends_the_program(error):
    def raising(prompts, texts):
        if "bad" in texts:
            raise error
        return contains_good(prompts, texts)

    result = judge(raising, PROMPTS, TEXTS)
    assert result.errors.tolist() == ["", type(error).__name__, ""]


def test_an_interrupt_of_the_oracles_own_is_a_failure_where_runs_hear_signals():
    def interrupted(prompts, texts):
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        assert judge(interrupted, PROMPTS, TEXTS).errors.tolist() == ["KeyboardInterrupt"] * 3
    finally:
        signal.signal(signal.SIGINT, handler)


def test_the_process_is_afterwards_as_it_was(tmp_path):
    def state():
        handler = signal.getsignal(signal.SIGTERM)
        return os.getcwd(), sys.stdout, handler, np.geterr(), list(warnings.filters)

    before = state()

    def meddling(prompts, texts):
        os.chdir(tmp_path)
        sys.stdout = None
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        np.seterr(all="raise")
        warnings.simplefilter("ignore")
        return contains_good(prompts, texts)

    judge(meddling, PROMPTS, TEXTS)
    assert state() == before


def test_a_stream_that_an_oracle_closes_can_still_be_written(monkeypatch):
    def closing(prompts, texts):
        sys.stdout.close()
        return contains_good(prompts, texts)

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    judge(closing, PROMPTS, TEXTS)
    print("more")
    sys.stdout.close()


def test_a_rehearsal_finds_what_would_fail_later():
    for oracle, said in (
        (lambda texts: [True], "cannot take two lists"),
        (lambda prompts, texts, reference: [True], "reference"),
        (lambda prompts, texts: 1 / 0, "all 3 samples raised, the first ZeroDivisionError"),
        (lambda prompts, texts: None, "returned None"),
    ):
        assert said in error_of(check_oracle, oracle, PROMPTS, TEXTS)
    check_oracle(contains_good, PROMPTS, TEXTS)


def test_no_samples():
    result = judge(contains_good, [], [])
    assert result.labels.shape == result.failed.shape == (0,)
    require_labels(contains_good, result)


# Names


def test_names_resolve_also_in_the_working_directory(tmp_path, monkeypatch):
    assert resolve("lexical") is lexical
    assert resolve("dinado_jax.tasks.keyword.lexical:lexical") is lexical
    (tmp_path / "oracle_of_mine.py").write_text("def short(prompts, texts):\n    return [True]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert resolve("oracle_of_mine:short")(["p ="], ["t"]) == [True]
    assert "no function long" in error_of(resolve, "oracle_of_mine:long")
    (tmp_path / "oracle_with_a_bug.py").write_text("1 / 0\n")
    assert "ZeroDivisionError" in error_of(resolve, "oracle_with_a_bug:short")


@pytest.mark.parametrize("name", ["lexicon", "no_such_module:f", "sys:", ":f", "sys:maxsize"])
def test_names_that_lead_nowhere(name):
    assert repr(name) in error_of(resolve, name)

"""The inflections of words, against tables of right and wrong forms."""

import subprocess
import sys
import time

import support
from support.refusal import error_of

from dinado_jax.tasks.keyword.lexical import forms, present


def pairs(name: str) -> list[tuple[str, str]]:
    """(concept, word) of a table beside this file with lines "concept: word word"."""
    lines = (support.SUPPORT / name).read_text(encoding="utf-8").splitlines()
    rows = (line.split(": ") for line in lines if line and not line.startswith("#"))
    return [(concept, word) for concept, found in rows for word in found.split()]


def test_forms_are_the_inflections_of_every_part_of_speech():
    assert {"chase", "chases", "chasing", "chased"} <= forms("chase")
    assert {"child", "children"} <= forms("Child")
    assert {"run", "ran", "running"} <= forms("run")
    assert {"dog", "dogs", "dogging"} <= forms("dog")
    assert forms("Blorf") == {"blorf", "blorfs", "blorfed", "blorfing"}
    assert "dogging" in forms("dog") and "doged" not in forms("dog")
    assert "'--'" in error_of(forms, "--")


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


def test_inflections_raise_no_warning_and_need_neither_spacy_nor_jax():
    code = (
        "import sys; from dinado_jax.tasks.keyword.lexical import forms; "
        "assert 'ran' in forms('run'); assert not {'spacy', 'jax'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")

"""Judging: failures stay with their samples, and answers that are no labels are refused."""

import gc
import io
import os
import signal
import sys
import warnings

import numpy as np
import pytest
from support.refusal import error_of

from dinado_jax.oracles.judge import check_oracle, judge, require_labels

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
        ([1j] * 3, "returned 1j (complex)"),
        ([True] * 2, "returned 2 values for 3 texts"),
        ([[1], [1, 0], []], "returned lists of different lengths"),
        (["\x1b[31m" + "x" * 100_000] * 3, "returned '\\x1b"),
    ],
)
def test_answers_are_described_in_one_printable_line(answer, said):
    message = error_of(judge, lambda prompts, texts: answer, PROMPTS, TEXTS)
    assert said in message and message.isprintable() and len(message) < 600


def test_a_coroutine_is_described_without_a_warning_of_python():
    async def later(prompts, texts):
        return [True for _ in texts]

    assert "returned coroutine for 3 texts" in error_of(judge, later, PROMPTS, TEXTS)
    gc.collect()


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
        (Hostile, "oracle Hostile is a class: give an object of it, such as judge = Hostile()"),
    ):
        assert said in error_of(check_oracle, oracle, PROMPTS, TEXTS)
    check_oracle(contains_good, PROMPTS, TEXTS)


def test_no_samples():
    result = judge(contains_good, [], [])
    assert result.labels.shape == result.failed.shape == (0,)
    require_labels(contains_good, result)

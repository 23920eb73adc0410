"""An oracle as a run calls it: each text once, and within its time."""

import signal
import threading
import time

import numpy as np
from support.refusal import error_of

from dinado_jax.oracles.calls import Limited, Once
from dinado_jax.oracles.judge import check_oracle, judge


def test_each_text_is_asked_once():
    asked = []

    def length(prompts, texts):
        asked.extend(zip(prompts, texts))
        return [len(prompt + text) / 10 for prompt, text in zip(prompts, texts)]

    once = Once(length)
    first = judge(once, ["p", "p", "q", "p"], ["b", "a", "a", "b"])
    assert asked == [("p", "b"), ("p", "a"), ("q", "a")]
    np.testing.assert_allclose(first.labels, 0.2)
    second = judge(once, ["p", "pb", "p"], ["a", "", "abc"])
    assert asked[3:] == [("pb", ""), ("p", "abc")]
    np.testing.assert_allclose(second.labels, [0.2, 0.2, 0.4])
    assert judge(once, ["p", "\ud800"], ["a", "\udfff"]).labels[1] == np.float32(0.2)


def test_failures_are_not_remembered():
    calls = []

    def sometimes(prompts, texts):
        calls.append(list(texts))
        if len(calls) < 4 and "bad" in texts:
            raise ValueError("not yet")
        return np.ma.array([1.0] * len(texts), mask=[text == "masked" for text in texts])

    once = Once(sometimes)
    for expected in (["ValueError", "", "masked", "masked"], ["", "", "masked", "masked"]):
        result = judge(once, [""] * 4, ["bad", "good", "masked", "masked"])
        assert result.errors.tolist() == expected
    assert calls[-1] == ["bad", "masked"]
    assert np.isnan(result.labels[2]) and result.labels[1] == 1


def test_an_oracle_keeps_its_name_and_its_arguments():
    def arity(text):
        return True

    assert "arity(text), cannot take two lists" in error_of(
        check_oracle, Once(Limited(arity, 1)), ["p"], ["t"]
    )


def hangs(prompts, texts):
    while any("hang" in text for text in texts):
        try:
            time.sleep(0.01)
        except Exception:  # which stops nothing
            continue
    return [True] * len(texts)


def test_a_text_on_which_it_hangs_is_left_out_by_name():
    before = signal.getsignal(signal.SIGALRM)
    limited = Limited(hangs, 0.1)
    result = judge(limited, [""] * 3, ["a", "hang", "b"])
    assert result.errors.tolist() == ["", "TimeOver", ""]
    assert "it took more than 0.1 s (rollout.oracle_seconds) (test_calls.py, line" in result.message
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    said = error_of(check_oracle, limited, [""] * 2, ["hang", "hang"])
    assert said.startswith("oracle hangs, all 2 samples raised, the first TimeOver: it took more")


def test_one_that_swallows_everything_is_stopped_in_the_end():
    def stubborn(prompts, texts):
        for _ in range(2):
            try:
                time.sleep(5)
            except BaseException:
                continue
        time.sleep(5)
        return [True]

    assert judge(Limited(stubborn, 0.05), [""], [""]).errors.tolist() == ["TimeOver"]


def test_outside_of_the_main_thread_no_call_can_be_stopped():
    said = []
    thread = threading.Thread(target=lambda: said.append(error_of(Limited, hangs, 1.5)))
    thread.start()
    thread.join()
    assert said == [
        "rollout.oracle_seconds = 1.5: an oracle can be stopped only in the main thread of a "
        "program: set it to 0, or run there"
    ]

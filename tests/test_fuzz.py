"""Some hundred cases of the fuzzer (tests/support/fuzz.py), and those that once found something."""

import signal

import pytest
from support import fuzz

COUNTS = {
    "config": 80, "override": 100, "prompts": 60, "task": 60, "pairs": 60, "model": 20, "run": 12,
    "oracle": 150,
}  # fmt: skip
# A message of 100 kB, a key of thousands of digits, a prompt that a line quoted whole, an oracle's
# own KeyboardInterrupt.
FOUND = ("override:19", "override:26", "prompts:35", "oracle:7096")


@pytest.fixture
def heard():
    """Signals are heard as in a run: Python raises no KeyboardInterrupt of its own."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", list(COUNTS))
def test_every_mutated_input_is_refused_in_a_line_or_taken_as_it_is(kind, finished_run, heard):
    cases = [case.split(":") for case in FOUND if case.startswith(kind)]
    numbers = [*range(COUNTS[kind]), *(int(number) for _, number in cases)]
    world = fuzz.World(finished_run)
    found = {f"{kind}:{n}": fuzz.outcome(kind, n, world) for n in numbers}
    assert {case: what for case, what in found.items() if what not in ("refused", "accepted")} == {}
    assert "refused" in found.values()

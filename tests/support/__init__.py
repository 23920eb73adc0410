"""Small models, worlds and runs for the tests, and programs they start."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
SUPPORT = TESTS / "support"

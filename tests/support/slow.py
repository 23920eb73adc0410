"""Writes tests/slow.txt, the tests that `make check` leaves out, from a report of durations:

    pytest --durations=0 -vv | python tests/support/slow.py
    pytest --durations=0 -vv -m "not slow" | python tests/support/slow.py --add

The second, repeated until it adds nothing, finds what is slow once no other test compiles its
programs. Left out are functions whose cases take a second or more together, and whole files in
which a fixture takes five.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

LIST = Path(__file__).parents[1] / "slow.txt"
FUNCTION, FIXTURE = 1.0, 5.0  # seconds
LINE = re.compile(r"\s*([\d.]+)s (call|setup|teardown) +(tests/[^:]+)::([^\[\n]+)")


def slow(report: str) -> set[str]:
    """The files and functions of a report that are slow."""
    seconds, files = defaultdict(float), set()
    for taken, when, file, function in LINE.findall(report):
        seconds[f"{file}::{function.strip()}"] += float(taken)
        if when == "setup" and float(taken) >= FIXTURE:
            files.add(file)
    functions = {name for name, total in seconds.items() if total >= FUNCTION}
    return files | {name for name in functions if name.split("::")[0] not in files}


if __name__ == "__main__":
    before = LIST.read_text().splitlines() if "--add" in sys.argv[1:] else []
    names = {*before, *slow(sys.stdin.read())}
    names = sorted(name for name in names if name.split("::")[0] not in names - {name})
    LIST.write_text("".join(f"{name}\n" for name in names))

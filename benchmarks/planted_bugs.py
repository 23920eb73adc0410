"""Plants small bugs one at a time and runs the tests that should catch them.

    python benchmarks/planted_bugs.py --jobs 2 --out planted.jsonl
    python benchmarks/planted_bugs.py --only 17                      # one bug again

Every bug replaces one piece of text in one file of a copy of the tree; the named tests then run
with `-x`. A JSON line per bug says whether it was caught, and by what; finished ones are not run
again.
"""

import argparse
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bugs import BUGS, Bug

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # a bug that hangs is caught by the reader of a test report too


def run(number: int, bug: Bug, folder: Path) -> dict:
    """Plants one bug in a copy of the tree at `folder` and runs its tests.

    The test that catches it must pass without it.
    """
    began = time.monotonic()
    path = folder / "dinado_jax" / bug.file
    text = path.read_text(encoding="utf-8")
    if text.count(bug.old) != 1:
        return {"bug": number, "file": bug.file, "outcome": f"not planted ({text.count(bug.old)})"}
    path.write_text(text.replace(bug.old, bug.new), encoding="utf-8")
    try:
        passed, by = run_tests(folder, [f"tests/{name}" for name in bug.tests.split()])
    finally:
        path.write_text(text, encoding="utf-8")
    if passed:
        outcome = "survived"
    elif by and not run_tests(folder, [by])[0]:
        outcome = "its test fails without it too"
    else:
        outcome = "caught"
    record = {"bug": number, "file": bug.file, "old": bug.old, "new": bug.new}
    return record | {"outcome": outcome, "by": by, "seconds": round(time.monotonic() - began)}


def run_tests(folder: Path, tests: list[str]) -> tuple[bool, str]:
    """Whether all pass, and the name of the first that does not; "" for one that hangs."""
    environment = os.environ | {
        "PYTHONPATH": f"{folder}:{folder / 'tests'}",
        "COMPILED_TESTS": str(folder.parent / "compiled"),
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return False, ""
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return False, line.split(" ", 1)[1].split(" - ")[0]
    return done.returncode == 0, ""


def copy_of_tree(folder: Path) -> None:
    for name in ("dinado_jax", "tests", "configs", "benchmarks", "launch", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "Makefile"):
        shutil.copy(ROOT / name, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="bugs at a time")
    parser.add_argument("--only", type=int, action="append", help="numbers of bugs")
    parser.add_argument("--out", type=Path, default=Path("planted_bugs.jsonl"))
    args = parser.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {json.loads(line)["bug"] for line in lines}
    left = [n for n in args.only or range(len(BUGS)) if args.only or n not in done]
    with tempfile.TemporaryDirectory() as scratch, args.out.open("a") as out:
        folders = [Path(scratch) / str(job) for job in range(args.jobs)]
        for folder in folders:
            copy_of_tree(folder)

        def work(job: int) -> None:
            for number in left[job :: args.jobs]:
                record = run(number, BUGS[number], folders[job])
                out.write(json.dumps(record) + "\n")
                out.flush()
                print(record["bug"], record["outcome"], record["file"], record.get("by", ""))

        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(work, range(args.jobs)))
    records = [json.loads(line) for line in args.out.read_text().splitlines()]
    caught = sum(record["outcome"] == "caught" for record in records)
    print(f"{caught} of {len(records)} caught")


if __name__ == "__main__":
    main()

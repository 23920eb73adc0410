"""Every test runs on eight CPU devices, and silent broadcasting is an error.

TEST_PLATFORM=cuda runs those that need a single device on a GPU, see CONTRIBUTING.md.
"""

import importlib.metadata
import os

os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones refuse these flags
    # Two thirds of the time to compile: no fusion emitters, and no program cut up for threads.
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = flags

from pathlib import Path

import jax
import pytest
from support import tiny_run

jax.config.update("jax_platforms", os.environ.get("TEST_PLATFORM", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """Marks as slow what tests/slow.txt lists: files and functions, see support/slow.py."""
    slow = set((Path(__file__).parent / "slow.txt").read_text().splitlines())
    for item in items:
        file, _, function = item.nodeid.partition("::")
        if file in slow or f"{file}::{function.partition('[')[0]}" in slow:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def programs_are_unmapped():
    """A process that has all mappings that Linux allows (65,530) crashes, and each compiled program
    has about six: those of many modules are too many."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_quickly(tmp_path_factory):
    """For modules whose programs are compiled more often than they are run."""
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a finished run of tiny_run's configuration; not to be changed."""
    from dinado_jax.stages.pipeline import run_stages
    from dinado_jax.stages.run_folder import STAGES

    path = tmp_path_factory.mktemp("runs") / "tiny"
    with tiny_run.quick_compilation(tmp_path_factory):
        run_stages(tiny_run.config(), STAGES, path)
    return path

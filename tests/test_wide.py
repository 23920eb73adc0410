"""JAX_ENABLE_X64=1 changes no sample, and no array's dtype."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def computed(wide: str) -> dict:
    script = [sys.executable, str(HERE / "wide.py")]
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    env = {**os.environ, "JAX_ENABLE_X64": wide, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    env |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_64_bits_change_nothing():
    plain, wide = computed("0"), computed("1")
    assert (plain.pop("wide"), wide.pop("wide")) == (False, True)
    assert plain.pop("dtypes") == wide.pop("dtypes") == ["bool", "float32", "int32"]
    assert plain.keys() == wide.keys()
    for name, value in plain.items():
        if isinstance(value[0], list):
            assert wide[name] == value, name
        else:
            np.testing.assert_allclose(wide[name], value, rtol=1e-3, atol=2e-2, err_msg=name)

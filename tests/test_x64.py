"""JAX_ENABLE_X64=1 changes no sample, and no array's dtype."""

import json
import os
import subprocess
import sys

import numpy as np
import support

HERE = support.TESTS


def started(wide: str) -> subprocess.Popen:
    script = [sys.executable, str(support.SUPPORT / "x64_program.py")]
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    env = {**os.environ, "JAX_ENABLE_X64": wide, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    env |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    return subprocess.Popen(script, env=env, stdout=subprocess.PIPE, text=True)


def computed(process: subprocess.Popen) -> dict:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def test_64_bits_change_nothing():
    plain, wide = map(computed, [started("0"), started("1")])
    assert (plain.pop("wide"), wide.pop("wide")) == (False, True)
    assert plain.pop("dtypes") == wide.pop("dtypes") == ["bool", "float32", "int32"]
    assert plain.keys() == wide.keys()
    for name, value in plain.items():
        if isinstance(value[0], list):
            assert wide[name] == value, name
        else:
            np.testing.assert_allclose(wide[name], value, rtol=1e-3, atol=2e-2, err_msg=name)

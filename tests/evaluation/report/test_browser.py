"""The report in Chromium, where PyQt6-WebEngine is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import reports

from dinado_jax.evaluation.report.page import page

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("PyQt6") is None
    or importlib.util.find_spec("PyQt6.QtWebEngineCore") is None,
    reason="needs PyQt6-WebEngine",
)
SCRIPT = Path(__file__).parents[2] / "support" / "browser.py"
SCHEMES = {"light": 1, "dark": 0}  # as Chromium numbers them


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_else_is_requested_and_nothing_overflows(tmp_path, width, scheme):
    path = tmp_path / "report.html"
    path.write_text(page(reports.records()), encoding="utf-8")
    flags = f"--no-sandbox --disable-gpu --blink-settings=preferredColorScheme={SCHEMES[scheme]}"
    environment = {
        **os.environ,
        "QT_QPA_PLATFORM": "offscreen",
        "QTWEBENGINE_CHROMIUM_FLAGS": flags,
        "QTWEBENGINE_DISABLE_SANDBOX": "1",
    }
    command = [sys.executable, str(SCRIPT), str(path), str(width)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["requests"] == [path.as_uri()] and found["console"] == []
    whole, window = found["widths"]
    assert whole == window and width - 20 <= window <= width  # beside a scroll bar

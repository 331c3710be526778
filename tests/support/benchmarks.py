"""The benchmark as a process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

needs_linux_and_psutil = pytest.mark.skipif(
    sys.platform != "linux" or importlib.util.find_spec("psutil") is None,
    reason="the benchmark needs Linux and psutil",
)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

"""The Triton kernels around MLA on a machine without a GPU: interpreted, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install --no-deps triton==3.6.0")

pytestmark = [pytest.mark.serve, pytest.mark.slow]


def test_agree_with_exact_results_under_the_interpreter() -> None:
    """Runs `interpreted_operations.py`; its failures are shown as this test's."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",  # the tiles are small: threads would only wait for each other
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    environment.pop("PYTEST_ADDOPTS", None)
    cases = Path(__file__).with_name("interpreted_operations.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout

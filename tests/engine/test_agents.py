"""Real coding agents, unmodified, do a task of two tool calls against the server, with no network but loopback.

`make agents` installs them; where one is not installed, its test is skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "build" / "agents" / "node_modules" / ".bin"
SESSION = Path(__file__).resolve().parents[1] / "support" / "agent_session.py"


def without_network() -> list[str]:
    """What to put before a command so that it sees loopback only."""
    wrap = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*wrap, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here, so the agent could reach the internet")
    return wrap


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["claude", "codex", "opencode"])
def test_agent_completes_its_task(agent: str) -> None:
    program = PROGRAMS / agent
    if not program.exists():
        pytest.skip(f"{agent} is not installed; run `make agents`")
    result = subprocess.run(
        [*without_network(), sys.executable, str(SESSION), agent, str(program)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "All done." in result.stdout
    cached = re.search(r"cached (\d+) of (\d+) prompt tokens", result.stderr)
    assert cached is not None
    # The first of three requests finds nothing; the others find nearly everything.
    assert int(cached[1]) > 0.55 * int(cached[2])

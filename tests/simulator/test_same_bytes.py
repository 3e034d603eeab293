"""The same study gives the same bytes: in any process, with any hash seed, time zone and language, however stepped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import hashlib, sys
from dataclasses import replace
from pathlib import Path
from tokenspeed.scheduler import POLICIES
from tokenspeed.simulator import StudySettings, load_workload, run_study
from tokenspeed.simulator.report import write_files
from tokenspeed.simulator.routing import ROUTERS
from tokenspeed.simulator.world.dispatcher import parse_outage

base = StudySettings("swe-agent", limit=3, concurrency=3, num_blocks=1700, replicas=2, host_blocks=300)
work = load_workload(base)
cells = [replace(base, router=router, outages=(parse_outage("1:9-20"),)) for router in ROUTERS]
cells += [replace(base, policy=policy, replicas=1) for policy in POLICIES.split(", ")]
out = Path(sys.argv[1])
for cell in cells:
    write_files(run_study(cell, work), out)
    total = hashlib.sha256()
    for path in sorted(out.iterdir()):
        total.update(path.read_bytes())
    print(cell.router, cell.policy, total.hexdigest())
"""

ENVIRONMENTS = {
    "plain": {"PYTHONHASHSEED": "0", "TZ": "UTC"},
    "odd": {
        "PYTHONHASHSEED": "12345",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "tr_TR.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
    },
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    said = {}
    for name, changes in ENVIRONMENTS.items():
        out = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-c", PROGRAM, str(out)]
        run = subprocess.run(command, env={**os.environ, **changes}, cwd=Path.cwd(), capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        said[name] = run.stdout.splitlines()
    return said


def test_every_router_and_policy_gives_the_same_bytes_everywhere(printed: dict[str, list[str]]) -> None:
    assert printed["plain"] == printed["odd"]
    assert len(printed["plain"]) >= 8


def test_routers_differ(printed: dict[str, list[str]]) -> None:
    """Otherwise equal bytes would say nothing about them."""
    assert len({line.split()[-1] for line in printed["plain"][:4]}) == 4

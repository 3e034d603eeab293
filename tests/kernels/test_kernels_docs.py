"""The page about kernels says what is registered, what is chosen, and how to add a kernel."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenspeed.kernels import REGISTRY, Capability, explain

pytestmark = pytest.mark.serve

PAGE = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text()


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_the_table_has_every_operation_and_kernel() -> None:
    pytest.importorskip(
        "triton.experimental.gluon", reason="this triton has no Gluon: pip install --no-deps triton==3.6.0"
    )
    table = PAGE.split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    listed = {row[0].strip(" `"): set(re.findall(r"`(\w+)`", row[2])) for row in rows}
    assert listed == {
        name: {kernel.name for kernel in REGISTRY.operation(name).kernels()} for name in REGISTRY.operations()
    }


def test_the_explanation_is_what_is_printed() -> None:
    pytest.importorskip(
        "triton.experimental.gluon", reason="this triton has no Gluon: pip install --no-deps triton==3.6.0"
    )
    shown = section("How a kernel is chosen").split("```python\n")[1].split("```")[0]
    traits: dict[str, Any] = {"heads": 128, "q_len": 1, "block_size": 64, "dense_cache": 1, "cache_bits": 16}
    selection = explain("mla_decode", device=Capability("cuda", 90), dtype=torch.bfloat16, **traits)
    printed = [line for line in shown.splitlines() if not line.startswith(">>>")]
    assert printed == str(selection).splitlines()


def test_one_file_in_the_folder_adds_a_kernel(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", section("Adding a kernel"), re.DOTALL)
    (tmp_path / "my_kernel.py").write_text(code)
    script = (
        "import inspect, json, sys, torch\n"
        "from tokenspeed.kernels import Capability, explain, mla\n"
        "mla.__path__.append(sys.argv[1])\n"  # as if the file were in the operation's folder
        "traits = {'heads': 16, 'q_len': 4, 'block_size': 64, 'dense_cache': 1, 'cache_bits': 16}\n"
        "def chosen(kernel=None, **changed):\n"
        "    device = Capability('cuda', 90)\n"
        "    return explain('mla_decode', device=device, dtype=torch.bfloat16, kernel=kernel, **traits | changed)\n"
        "mine = chosen('my_kernel')\n"
        "refused = [c.reasons for c in chosen(heads=24, q_len=5).candidates if c.name == 'my_kernel']\n"
        "parameters = list(inspect.signature(mine.kernel.run).parameters)\n"
        "print(json.dumps([mine.kernel.name, chosen(block_size=32).kernel.name, refused, parameters]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("TOKENSPEED_KERNEL_MLA_DECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name, without_competition, refused, parameters = json.loads(done.stdout)
    assert name == "my_kernel"
    assert without_competition == "my_kernel"  # gluon_hopper is for blocks of 64
    assert refused == [["heads=24, needs a multiple of 16", "q_len=5, needs at most 4"]]
    # What the public function passes, as the reference takes it.
    (reference,) = (k for k in REGISTRY.operation("mla_decode").kernels() if k.name == "reference")
    assert parameters == list(inspect.signature(reference.run).parameters)

import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from tokenspeed.engine.spmd.compiler import compile_model
from tokenspeed.engine.spmd.mesh import Mesh, Parallelism
from tokenspeed.engine.spmd.runtime.collectives import DistributedCommunicator

from .models import model

WORLD = 2


def test_two_gloo_ranks_compute_what_one_rank_computes(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("process_rank.py"))]
    ranks = [
        subprocess.Popen(
            [*program, str(rank), str(WORLD), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        outputs = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * WORLD, outputs[0][1] + outputs[1][1]
    for printed, _ in outputs:
        assert "bucket differs between ranks: rank 0 has 8; rank 1 has 9" in printed
        assert printed.endswith("done\n")


def test_a_plan_for_another_world_is_refused(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        plan = compile_model(model("attention"), Mesh.of(Parallelism(2)))
        with pytest.raises(ValueError, match=r"for 2 ranks, but torch\.distributed has 1"):
            DistributedCommunicator(plan)
    finally:
        dist.destroy_process_group()

"""One rank of a real process group: `python process_rank.py RANK WORLD STORE [gloo or nccl]`.

test_collectives.py starts two with gloo. With nccl, rank r takes GPU r: for two GPUs start two of them by hand.
"""

import sys
from datetime import timedelta
from importlib import import_module

import torch
import torch.distributed as dist

from tokenspeed.engine.spmd.agreement import Disagreement
from tokenspeed.engine.spmd.compiler import compile_model
from tokenspeed.engine.spmd.links import Links
from tokenspeed.engine.spmd.mesh import Mesh, Parallelism
from tokenspeed.engine.spmd.plan import StepRows
from tokenspeed.engine.spmd.runtime.collectives import DistributedCommunicator, agree
from tokenspeed.engine.spmd.runtime.stack import Stack

# Neighbours in this folder: a program has no package.
bodies, models = import_module("bodies"), import_module("models")

PARALLELISMS = (Parallelism(2), Parallelism(1, 2, ep=2, vocab_tp=2), Parallelism(2, ep=2, dense_tp=1, vocab_tp=1))


def check(rank: int, parallelism: Parallelism, links: Links, tokens: tuple[int, ...], device: str) -> None:
    """This rank's logits are those of one device."""
    stack = models.model("attention", "mlp", "mla", "shared")
    plan = compile_model(stack, Mesh.of(parallelism), links=links, tokens=16)
    groups = plan.attention.parts
    ids = [torch.arange(n, device=device) * 7 % 40 for n in tokens[: len(groups)]]
    sampled = tuple(tuple(range(max(0, n - 2), n)) for n in tokens[: len(groups)])
    rows = StepRows.of(plan.attention, agree("tokens", tokens[: len(groups)]), agree("sampled", sampled))
    found = bodies.run_rank(plan, rank, ids, rows, DistributedCommunicator(plan), device)
    group = next(i for i, members in enumerate(groups) if rank in members)
    one = compile_model(stack, Mesh.of(Parallelism()))
    code = bodies.Code(one.mesh, 0, device)
    single = Stack(one, 0, body=code.body, norm=code.norm)
    wanted = single.logits(single.forward([ids[group]], None)[list(sampled[group])])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12, msg=f"rank {rank}: {parallelism}")


def main(rank: int, world: int, store: str, backend: str = "gloo") -> None:
    """Runs all checks on this rank."""
    torch.set_num_threads(1)
    device = "cpu" if backend == "gloo" else f"cuda:{rank}"
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend, init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    for parallelism in PARALLELISMS:
        for links in (Links(), Links(memory_bandwidth=1e6)):
            for tokens in ((5, 2), (4, 4)):
                check(rank, parallelism, links, tokens, device)
    try:
        agree("bucket", 8 + rank)
    except Disagreement as error:
        print(error)
    dist.destroy_process_group()
    print("done")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])

"""Every kernel on the small cases of the check, once each, to be run under compute-sanitizer.

    compute-sanitizer --tool memcheck python benchmarks/kernels/sanitized_kernels.py
    compute-sanitizer --tool racecheck python benchmarks/kernels/sanitized_kernels.py --only triton rms_norm rotary

References are left out: they are torch's own kernels. MLA decode runs with plans of few parts too, which cut rows.

--only: kernels whose name begins with this
operations: those to run; all if none is named
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter

import measuring
import torch

from tokenspeed.kernels import REGISTRY, Band, mla_decode, plan_mla_decode
from tokenspeed.kernels.workbench.cases import case_makers


def run_cases(device: torch.device, prefix: str, operations: list[str]) -> Counter[str]:
    """Run what fits the device; how often each kernel ran."""
    ran: Counter[str] = Counter()
    for name, make in case_makers():
        if name not in operations:
            continue
        operation, case = REGISTRY.operation(name), None
        for kernel in operation.kernels():
            if kernel.band is Band.REFERENCE or not kernel.name.startswith(prefix):
                continue
            case = case or make(device)
            problem = operation.select(device, case.dtype, case.traits, "reference").problem
            if not kernel.objections(problem):
                case.run(kernel.name)
                torch.cuda.synchronize()
                ran[f"{name} {kernel.name}"] += 1
    return ran


def run_planned(device: torch.device, prefix: str) -> None:
    """MLA decode of rows that are cut, whole and empty, in query tiles that are full and not."""
    contexts = [130, 1, 0, 64, 400]
    blocks = [-(-context // 64) for context in contexts]
    order = torch.randperm(sum(blocks), device=device).int()
    cache = torch.randn(len(order), 64, 576, device=device).bfloat16()
    table = torch.zeros(len(contexts), max(blocks), dtype=torch.int32, device=device)
    for row, own in enumerate(order.split(blocks)):
        table[row, : len(own)] = own
    lengths = torch.tensor(contexts, dtype=torch.int32, device=device)
    for (heads, q_len), programs in itertools.product(((16, 1), (40, 2)), (3, None)):
        q = torch.randn(len(contexts), q_len, heads, 576, device=device).bfloat16()
        plan = plan_mla_decode(lengths, q_len=q_len, heads=heads, max_context=448, programs=programs)
        for stored, suffix in ((cache, ""), (cache.to(torch.float8_e4m3fn), "_fp8")):
            for kernel in ("gluon_hopper", "triton_split_kv"):
                if kernel.startswith(prefix):
                    mla_decode(q, stored, table, lengths, scale=576**-0.5, plan=plan, kernel=kernel + suffix)
                    torch.cuda.synchronize()


def main() -> None:
    """Run all, and say what ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="first letters of the kernels' names")
    parser.add_argument("operations", nargs="*")
    arguments = parser.parse_args()
    operations = arguments.operations or REGISTRY.operations()
    device = measuring.cuda_device()
    torch.manual_seed(0)
    ran = run_cases(device, arguments.only, operations)
    if "mla_decode" in operations:
        run_planned(device, arguments.only)
    print("ran", ", ".join(f"{name} ({times} cases)" for name, times in ran.items()), "on", measuring.machine(device))


if __name__ == "__main__":
    main()

"""Small launches of every MLA kernel, to be run under compute-sanitizer.

compute-sanitizer --tool memcheck python benchmarks/kernels/sanitized_mla.py
"""

from __future__ import annotations

import measuring
import torch

_LINK = measuring.import_from_tree()
from tokenspeed.kernels import mla_decode, mla_prefill, plan_mla_decode  # noqa: E402


def decode(device: torch.device) -> None:
    """Rows that are cut, whole, empty; part of a query tile and more than one."""
    contexts = [130, 1, 0, 64, 400]
    blocks = [-(-context // 64) for context in contexts]
    order = torch.randperm(sum(blocks), device=device).int()
    cache = torch.randn(len(order), 64, 576, device=device).bfloat16()
    table = torch.zeros(len(contexts), max(blocks), dtype=torch.int32, device=device)
    for row, own in enumerate(order.split(blocks)):
        table[row, : len(own)] = own
    lengths = torch.tensor(contexts, dtype=torch.int32, device=device)
    for heads, q_len in ((16, 1), (40, 2)):
        q = torch.randn(len(contexts), q_len, heads, 576, device=device).bfloat16()
        for programs in (3, None):
            plan = plan_mla_decode(lengths, q_len=q_len, heads=heads, max_context=448, programs=programs)
            for stored, suffix in ((cache, ""), (cache.to(torch.float8_e4m3fn), "_fp8")):
                for kernel in ("gluon_hopper", "triton_split_kv"):
                    mla_decode(q, stored, table, lengths, scale=576**-0.5, plan=plan, kernel=kernel + suffix)


def prefill(device: torch.device) -> None:
    """Rows whose keys end within a tile, causal and not."""
    q = torch.randn(170, 2, 192, device=device).bfloat16()
    k, v = (torch.randn(421, 2, width, device=device).bfloat16() for width in (192, 128))
    q_starts, kv_starts = (
        torch.tensor(starts, dtype=torch.int32, device=device) for starts in ([0, 130, 170], [0, 300, 421])
    )
    for kernel in ("gluon_hopper", "triton_flash"):
        for causal in (True, False):
            mla_prefill(q, k, v, q_starts, kv_starts, scale=192**-0.5, causal=causal, max_queries=130, kernel=kernel)


if __name__ == "__main__":
    torch.manual_seed(0)
    decode(measuring.cuda_device())
    prefill(measuring.cuda_device())
    torch.cuda.synchronize()
    print("ran every MLA kernel")

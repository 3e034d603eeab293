"""Tune how finely MLA decode cuts small batches on this machine, and print the tuning table with its entry.

    python benchmarks/kernels/tune_mla_decode.py > tuning.json    # then move it over kernels/mla/tuning.json

For each number of queries a row, every candidate is timed on batches that latency limits, in turns; the one with the
least geometric mean wins. Large batches are cut equally by all candidates.
"""

from __future__ import annotations

import functools
import math

import measuring
import torch
from measuring import Pool, progress

from tokenspeed.kernels import mla_decode, plan_mla_decode
from tokenspeed.kernels.mla import Tuning
from tokenspeed.kernels.mla.tuning import TABLE
from tokenspeed.kernels.tuning import with_entries

CANDIDATES = [Tuning(1, 4096), *(Tuning(m, r) for m in (2, 4) for r in (2048, 4096, 8192))]
QUERIES = (16, 32, 64, 128, 256, 512)
BATCHES = ([1024], [1024] * 4, [1024] * 8, [1024] * 16, [8192], [8192] * 4, [4641, 45118, 1730, 1696])
SCALE = 576**-0.5


def time_candidates(queries: int, contexts: list[int], pool: Pool) -> dict[Tuning, float]:
    """Microseconds of each candidate on one batch."""
    tables = pool.tables(contexts)
    lengths = torch.tensor(contexts, dtype=torch.int32, device=pool.device)
    heads = min(queries, 128)
    q = torch.randn(len(contexts), queries // heads, heads, 576, device=pool.device).bfloat16()
    calls = {}
    for tuning in CANDIDATES:
        plan = plan_mla_decode(lengths, q_len=queries // heads, heads=heads, max_context=max(contexts), tuning=tuning)
        run = functools.partial(mla_decode, q, pool.cache, scale=SCALE, plan=plan, kernel="gluon_hopper")
        calls[str(tuning)] = [
            functools.partial(run, block_table=tables[index % len(tables)], context_lens=lengths) for index in range(24)
        ]
    times = measuring.time_in_turns(calls, rounds=5)
    return {tuning: times[str(tuning)]["us"] for tuning in CANDIDATES}


def main() -> None:
    """Tune all numbers of queries."""
    device = measuring.cuda_device()
    torch.manual_seed(0)
    pool = Pool(1_000_000, device)
    entries = []
    for queries in QUERIES:
        logs = dict.fromkeys(CANDIDATES, 0.0)
        for contexts in BATCHES:
            for tuning, us in time_candidates(queries, contexts, pool).items():
                logs[tuning] += math.log(us)
        means = {tuning: math.exp(total / len(BATCHES)) for tuning, total in logs.items()}
        best = min(means, key=lambda tuning: means[tuning])
        progress(f"{queries} queries: " + ", ".join(f"{tuning} {us:.1f} us" for tuning, us in means.items()))
        entries.append({"queries_up_to": queries, "min_tiles": best.min_tiles, "most_results": best.most_results})
    print(with_entries(TABLE, device, entries))


if __name__ == "__main__":
    main()

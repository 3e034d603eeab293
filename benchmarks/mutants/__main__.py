"""Which mutants of the specification have a reachable violation: `make bench-mutants`.

`tokenspeed verify mutants` says that each mutant breaks something named, by proof. Here each is searched as well: all
mutants are compiled into one explorer, switched by a constant, and small instances are searched, from small to large,
until one violates a property, a counter, a choice or a progress claim, or a transition changes nothing. A mutant
without such a trace is known from its proof only. One process for each core; writes results/latest.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mutant_search import SEARCHED, build, row, start, unmutated
from record import write

from tokenspeed.spec.prove.mutants import mutants
from tokenspeed.spec.system import SPEC

RESULT = Path(__file__).parent / "results" / "latest.json"
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    """Judge every mutant by proof, and search those that are not equivalent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take only each so-manieth mutant; writes nothing then")
    options = parser.parse_args()
    began = time.perf_counter()
    numbers = range(1, len(list(mutants(SPEC))) + 1, options.every)
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        built = time.perf_counter() - began
        context = multiprocessing.get_context("spawn")  # z3 does not survive a fork
        with ProcessPoolExecutor(CORES, context, start, (library,)) as pool:
            wrong = [v for v in pool.map(unmutated, range(len(SEARCHED))) if v]
            if wrong:
                raise SystemExit(f"without a mutant these are violated: {', '.join(wrong)}")
            rows = list(pool.map(row, numbers, chunksize=4))
    killed = [r for r in rows if r["verdict"] == "killed"]
    traced = [r for r in killed if "violated" in r]
    result = {
        "mutants": len(rows), "killed": len(killed), "equivalent": sum(r["verdict"] == "equivalent" for r in rows),
        "with_a_reachable_trace": len(traced), "longest_trace": max(int(r["events"]) for r in traced),
        "seconds": round(time.perf_counter() - began), "seconds_to_build": round(built),
        "cpu_seconds": round(sum(os.times()[:4])), "rows": rows,
    }  # fmt: skip
    if options.every == 1:
        write(RESULT, result)
    print({k: v for k, v in result.items() if k != "rows"})
    for r in killed:
        if "violated" not in r:
            print(f"no trace: {r['mutant']}  ({', '.join(r['killed_by'])})")


if __name__ == "__main__":
    main()

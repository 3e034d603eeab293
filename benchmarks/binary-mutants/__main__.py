"""Who notices damage to the generated C++: `make bench-binary-mutants`.

Every line of code of machine.cpp and machine.h is left out once, and every token of machine.cpp changed; translation
validation judges each text (spec/conform/cpp/mutants.py). One process for each core; writes results/latest.json, and
fails if a damaged text is neither noticed nor proved to do the same.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from record import write

from tokenspeed.spec.conform.binary import generated_sources
from tokenspeed.spec.conform.cpp.mutants import MISSED, NOTICED, SAME, judge_all, table

RESULT = Path(__file__).parent / "results" / "latest.json"


def main() -> int:
    """Judge all damaged texts and write who noticed them."""
    began = time.perf_counter()
    results = judge_all(generated_sources())
    result = {
        "seconds": round(time.perf_counter() - began), "texts": len(results),
        "lines_left_out": sum(d.operator == "delete" for d, _ in results),
        "noticed": sum(v in NOTICED for _, v in results), "proved_to_do_the_same": sum(v == SAME for _, v in results),
        "missed": sum(v == MISSED for _, v in results), "by_operator": table(results),
        "not_noticed": [f"{v}: {d}" for d, v in results if v not in NOTICED],
    }  # fmt: skip
    write(RESULT, result)
    print(json.dumps(result, indent=1))
    return int(bool(result["missed"]))


if __name__ == "__main__":
    sys.exit(main())

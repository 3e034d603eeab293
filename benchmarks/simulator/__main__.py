"""Times whole `tokenspeed simulate` runs on public traces, and checks that every run gives the same bytes.

    TOKENSPEED_TRACES=FOLDER make bench-simulator

Prints a table and writes results/latest.json. The traces are those of docs/simulator.md.
"""

from __future__ import annotations

import filecmp
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import write

HERE = Path(__file__).resolve().parent
RUNS = 3
CASES = {
    "Mooncake conversation, 12,031 requests": ["mooncake_conversation.jsonl.gz"],
    "Claude Code, 50 sessions": ["claude_code_500_sessions.tar.xz", "--sessions", "50"],
}


def simulate(arguments: list[str], out: Path) -> float:
    """Seconds of one run as its user sees it, start-up and report included."""
    command = [sys.executable, "-m", "tokenspeed", "simulate", "--workload", *arguments, "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure, compare, print and write."""
    folder = os.environ.get("TOKENSPEED_TRACES")
    if not folder:
        sys.exit("TOKENSPEED_TRACES is not set; give the folder with the public traces")
    results: dict[str, object] = {}
    for name, (trace, *options) in CASES.items():
        with tempfile.TemporaryDirectory() as scratch:
            outs = [Path(scratch) / str(run) for run in range(RUNS)]
            seconds = [simulate([str(Path(folder) / trace), *options], out) for out in outs]
            files = sorted(path.name for path in outs[0].iterdir())
            same = all(not any(filecmp.cmpfiles(outs[0], out, files, shallow=False)[1:]) for out in outs[1:])
        results[name] = {"seconds": [round(s, 2) for s in seconds], "same_bytes": same, "files": files}
        print(f"{name:42} median {statistics.median(seconds):6.2f} s, same bytes: {same}")
    write(HERE / "results" / "latest.json", results)


if __name__ == "__main__":
    main()

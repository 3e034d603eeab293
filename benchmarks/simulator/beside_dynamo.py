"""The Mooncake conversation trace in this simulator and in Dynamo 1.6.1's replay, in turns, CPU seconds of the process.

    export TOKENSPEED_TRACES=FOLDER DYNAMO_PYTHON=VENV/bin/python
    PYTHONPATH=benchmarks python benchmarks/simulator/beside_dynamo.py

DYNAMO_PYTHON has `ai-dynamo-runtime==1.6.1` and `ai-dynamo==1.6.1`. Both read the trace and simulate; importing is left
out. Pools of 7,478 blocks of 64, 256 sequences, 8,192 tokens a step. Dynamo's time model is its built-in polynomial and
its scheduler its own, so the two do not run the same steps: what is compared is the time for the same requests.
Writes results/beside_dynamo.json.
"""

from __future__ import annotations

import gzip
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import write

HERE = Path(__file__).resolve().parent
RUNS = 3

OURS = """
import sys, time
from dataclasses import replace
from tokenspeed.simulator import StudySettings, load_workload
from tokenspeed.simulator.study.settings import make_cluster, place_model
from tokenspeed.simulator.world.simulation import simulate
settings = StudySettings(sys.argv[1], replicas=int(sys.argv[2]), router="round-robin", max_context="none")
cluster = make_cluster(settings, place_model(settings))
before = time.process_time()
simulate(load_workload(settings), cluster)
print(time.process_time() - before)
"""

DYNAMO = """
import sys, time
from dynamo.replay import run_trace_replay
engine = {"num_gpu_blocks": 7478, "block_size": 64, "max_num_seqs": 256, "max_num_batched_tokens": 8192}
before = time.process_time()
args = {"extra_engine_args": {"engine": engine}, "num_workers": int(sys.argv[2]), "trace_block_size": 512}
run_trace_replay([sys.argv[1]], **args)
print(time.process_time() - before)
"""


def seconds(python: str, program: str, trace: Path, replicas: int) -> float:
    """CPU seconds that the program says it took."""
    command = [python, "-c", program, str(trace), str(replicas)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Measure in turns, print and write."""
    folder, dynamo = os.environ.get("TOKENSPEED_TRACES"), os.environ.get("DYNAMO_PYTHON")
    if not folder or not dynamo:
        sys.exit("TOKENSPEED_TRACES and DYNAMO_PYTHON must be set")
    results: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "conversation.jsonl"
        trace.write_bytes(gzip.decompress((Path(folder) / "mooncake_conversation.jsonl.gz").read_bytes()))
        for replicas in (1, 8):
            times: dict[str, list[float]] = {"ours": [], "dynamo": []}
            for _ in range(RUNS):
                times["ours"].append(round(seconds(sys.executable, OURS, trace, replicas), 2))
                times["dynamo"].append(round(seconds(dynamo, DYNAMO, trace, replicas), 2))
            results[f"{replicas} replicas, CPU s"] = times
            said = ", ".join(f"{name} {statistics.median(values):.2f} s" for name, values in times.items())
            print(f"{replicas} replicas: median {said}", flush=True)
    write(HERE / "results" / "beside_dynamo.json", results)


if __name__ == "__main__":
    main()

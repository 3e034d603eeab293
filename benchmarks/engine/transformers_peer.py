"""What transformers' `generate` and continuous batching do with the same shape on the same machine.

    python benchmarks/engine/transformers_peer.py --out FILE.json

Random weights in bfloat16, greedy, no stop; tokens per second of decode: the time of 1 + N new tokens less that of 1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from shapes import SHAPES

NEW = 64
hf: Any = transformers  # typed in part only


def llama(shape: str, attention: str) -> Any:
    """The shape in transformers, with random weights."""
    fields = {name: value for name, value in SHAPES[shape].items() if name != "architectures"}
    config = hf.LlamaConfig(**fields, eos_token_id=None, attn_implementation=attention)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = hf.LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def decode_ms(run: Callable[[int], object]) -> float:
    """Milliseconds of a decode step, by the difference of a long and a short run."""
    run(2)
    seconds = {}
    for count in (1, 1 + NEW):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run(count)
        torch.cuda.synchronize()
        seconds[count] = time.perf_counter() - start
    return (seconds[1 + NEW] - seconds[1]) / NEW * 1e3


def main() -> None:
    """Measure, print and write; what transformers cannot run is written as its error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=["llama-3-8b", "smollm2-135m"], default="llama-3-8b")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": hf.__version__,
        "shape": options.shape,
        "results": [],
    }
    for mode, attention in (("generate", "sdpa"), ("generate_batch", "paged|sdpa")):
        model = llama(options.shape, attention)
        for batch, context in ((1, 1024), (32, 1024)):
            ids = torch.randint(0, 1000, (batch, context), device="cuda")

            def run(count: int, mode: str = mode, model: Any = model, ids: torch.Tensor = ids) -> object:
                settings = hf.GenerationConfig(
                    max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
                )
                if mode == "generate":
                    return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
                return model.generate_batch(inputs=ids.tolist(), generation_config=settings, progress_bar=False)

            row: dict[str, Any] = {"mode": mode, "batch": batch, "context": context}
            try:
                row["step_ms"] = decode_ms(run)
                row["tokens_per_s"] = batch / row["step_ms"] * 1e3
            except Exception as error:  # versions differ in what they can run; the table says so
                row["error"] = f"{type(error).__name__}: {error}"[:300]
            report["results"].append(row)
            print(row, flush=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n")
        del model
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

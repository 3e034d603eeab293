"""The options of `tokenspeed serve`, once: the command line is made from this dataclass. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Option:
    """What the command line needs to know of a field, besides its type and default."""

    help: str
    flag: str | None = None
    """Its name there, if not that of the field."""
    low: float | None = None
    high: float | None = None
    """The range of a number."""
    choices: tuple[str, ...] = ()
    """The words that may be given."""
    size: bool = False
    """A number of bytes, written like 512MiB."""
    shown: str | None = None
    """What the help says about a default that is None."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a server is started with. What cannot work together is found when the model is loaded."""

    model: Annotated[str, Option("A GGUF file, a Hugging Face directory, or smollm2 (a small model).")] = "smollm2"
    tp: Annotated[int, Option("Ranks (GPUs) that share the model, each in a process of its own.", low=1)] = 1
    ep: Annotated[int, Option("Of these, ranks that share the experts, whole experts each.", low=1)] = 1
    load_format: Annotated[
        str, Option("dummy: random weights for a directory with only a config.json.", choices=("auto", "dummy"))
    ] = "auto"
    host: Annotated[str, Option("Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen on; 0 picks a free one.", low=0, high=65535)] = 8000
    max_running: Annotated[int, Option("Requests that may run at once.", low=1)] = 64
    num_blocks: Annotated[int | None, Option("KV blocks in the pool.", low=1, shown="from --kv-memory")] = None
    kv_memory: Annotated[
        int | None, Option("Memory of the KV cache.", size=True, shown="what a GPU has left; 1GiB on a CPU")
    ] = None
    host_kv_memory: Annotated[int, Option("Host memory for KV blocks off the device.", size=True)] = 0
    block_size: Annotated[int | None, Option("Tokens per KV block.", low=1, shown="64 for latent caches, else 16")] = (
        None
    )
    max_step_tokens: Annotated[int, Option("Token budget of one step.", low=1)] = 512
    overlap_depth: Annotated[int, Option("Steps in flight while one is planned.", low=0, high=2)] = 1
    drafts: Annotated[
        str,
        Option("suffix: guess what repeats of a text, and check it in one step.", choices=("none", "suffix")),
    ] = "none"
    draft_tokens: Annotated[int, Option("Most drafts of a request in a step.", low=1, high=15)] = 4
    prefix_cache: Annotated[bool, Option("Do not share blocks between requests.", flag="--no-prefix-cache")] = True
    max_waiting: Annotated[int, Option("Requests that may wait; more are refused.", low=1)] = 1024
    served_model_name: Annotated[
        str | None, Option("Names that clients may use, with commas between; * takes all.", shown="the model's")
    ] = None
    api_key_file: Annotated[Path | None, Option("File with API keys, one a line; requests must bring one.")] = None
    step_timeout: Annotated[float, Option("Seconds after which a step hangs and the server ends.", low=1)] = 300.0
    shutdown_timeout: Annotated[float, Option("Seconds to finish on SIGTERM.", low=0)] = 10.0
    threads: Annotated[int | None, Option("CPU threads of torch.", low=1, shown="all")] = None
    record_trace: Annotated[Path | None, Option("Record every transition for verify trace.")] = None

"""Mooncake traces (Qin et al., FAST 2025): JSON lines with arrival times, lengths and global prefix hashes.

Fields: timestamp (ms), input_length, output_length (tokens), hash_ids (one chain id for each block of 512 prompt
tokens; the last block may be partial). The trace does not say which requests belong to one conversation: each is a
session of its own.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from ..errors import WorkloadError
from ..timebase import NS_PER_MS
from ..workload.options import WorkloadOptions
from ..workload.page_hashes import expand, split_ratio
from ..workload.workload import Call, Session, Workload
from .fields import block_ids, integer, parse_json_object

TRACE_BLOCK_SIZE: Final = 512
"""Prompt tokens that one id of the trace stands for."""


def read_mooncake(lines: Iterable[bytes], name: str, options: WorkloadOptions) -> Workload:
    """The workload in `lines`: open loop, one session per request."""
    ratio = split_ratio(TRACE_BLOCK_SIZE, options.block_size)
    arrivals: list[tuple[int, int]] = []
    requests = []
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    for number, line in islice(numbered, options.limit):
        where = f"{name}, line {number}"
        record = parse_json_object(line, where)
        prompt = integer(record, "input_length", where, least=1)
        output = integer(record, "output_length", where)
        ids = block_ids(record, "hash_ids", where)
        if len(ids) > -(-prompt // TRACE_BLOCK_SIZE):
            raise WorkloadError(
                f"{where}: field 'hash_ids' has {len(ids)} ids, too many for input_length {prompt} in blocks of "
                f"{TRACE_BLOCK_SIZE}"
            )
        arrivals.append((integer(record, "timestamp", where, most=10**12) * NS_PER_MS, len(arrivals)))
        requests.append((prompt, max(output, 1), expand(ids, ratio, 0, prompt // options.block_size)))
    calls: list[Call] = []
    sessions: list[Session] = []
    for arrival, position in sorted(arrivals):
        prompt, output, hashes = requests[position]
        index = len(calls)
        calls.append(Call(index, index, 0, prompt, output, hashes))
        sessions.append(Session(f"request {position}", arrival, range(index, index + 1)))
    return Workload(
        name,
        options.block_size,
        sessions,
        calls,
        None,
        {
            "Workload": f"Mooncake trace, {len(calls):,} requests, open loop at the recorded times",
            "Prefix identities": f"global, each id of {TRACE_BLOCK_SIZE} tokens split into {ratio} blocks; full blocks "
            "of the prompt only (the trace does not say which output a later prompt repeats)",
        },
    )

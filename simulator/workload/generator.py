"""Closed-loop sessions of coding agents, drawn from an `AgentProfile` with a seed."""

from random import Random

import numpy as np

from ..timebase import NS_PER_S, seconds_to_ns
from .options import WorkloadOptions
from .page_hashes import numbered_blocks
from .presets import AgentProfile
from .workload import Call, Dependency, Workload, closed_loop_in_words, closed_loop_sessions

SHARED_SCOPE = 0


def generate(profile: AgentProfile, seed: int, options: WorkloadOptions) -> Workload:
    """Sessions of `profile`. The first n sessions of a seed do not depend on how many are generated."""
    count = profile.sessions if options.limit is None else options.limit
    concurrency = min(options.concurrency or profile.concurrency, count)
    stagger_ns = seconds_to_ns(profile.stagger_s)
    calls: list[Call] = []
    sessions: list[tuple[str, range]] = []
    for session in range(count):
        first = len(calls)
        _generate_session(profile, Random(f"{seed}/{session}"), session, options, calls)
        sessions.append((f"{profile.name} {session}", range(first, len(calls))))
    return Workload(
        profile.name,
        options.block_size,
        closed_loop_sessions(sessions, concurrency, stagger_ns),
        calls,
        concurrency,
        {
            "Workload": f"{count:,} generated sessions of {profile.name}, {len(calls):,} calls, closed loop",
            "Preset": f"{profile.name}: {profile.description}",
            "Sessions alive at once": closed_loop_in_words(concurrency, stagger_ns),
            "Think and tool times": f"generated, capped at {options.think_cap_ns / NS_PER_S:g} s",
            "Prefix identities": "the calls of a session share their common text, answers included; all sessions share "
            + (f"the first {profile.system_tokens:,} tokens" if profile.system_tokens else "nothing"),
        },
        source={"preset": profile.name, "seed": seed},
        chains_checked=True,
    )


def _generate_session(
    profile: AgentProfile, random: Random, session: int, options: WorkloadOptions, calls: list[Call]
) -> None:
    """Append the calls of one session. A text (the prompts between two rewrites) is hashed once; calls share views."""
    turns = int(profile.turns.sample(random.random()))
    first = len(calls)
    lengths: list[tuple[int, int, int]] = []  # prompt, output, number of the text
    pauses: list[int] = []
    prompt, text = _first_prompt(profile, random), 0
    for _ in range(turns):
        output = max(int(profile.output.sample(random.random())), 1)
        lengths.append((prompt, output, text))
        pause = seconds_to_ns(profile.pause_s.sample(random.random()))
        pauses.append(min(pause, options.think_cap_ns))
        grown = prompt + output + max(int(profile.new_input.sample(random.random())), 1)
        rewritten = random.random() < profile.rewrite_probability
        if grown > profile.context_limit:
            prompt, text = _first_prompt(profile, random), text + 1
        else:
            prompt, text = grown, text + rewritten
    longest = {number: (prompt + output) // options.block_size for prompt, output, number in lengths}
    hashes = {}
    for number, blocks in longest.items():
        shared = min(profile.system_tokens // options.block_size, blocks)
        own = numbered_blocks((session + 1 << 20) + number, shared, blocks - shared)
        hashes[number] = np.concatenate([numbered_blocks(SHARED_SCOPE, 0, shared), own])
    for turn, (prompt, output, number) in enumerate(lengths):
        index = first + turn
        extended = turn + 1 < turns and lengths[turn + 1][2] == number
        named = (prompt + output if extended else prompt) // options.block_size
        after = (Dependency(index - 1, pauses[turn - 1]),) if turn else ()
        calls.append(Call(index, session, turn, prompt, output, hashes[number][:named], after))


def _first_prompt(profile: AgentProfile, random: Random) -> int:
    return max(int(profile.first_prompt.sample(random.random())), profile.system_tokens, 1)

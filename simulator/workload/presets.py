"""Named workloads of generated coding-agent sessions."""

from dataclasses import dataclass
from typing import Final

from .distributions import Distribution, Quantiles, Uniform


@dataclass(frozen=True, slots=True)
class AgentProfile:
    """What a generated session looks like. Lengths in tokens, times in seconds."""

    name: str
    description: str
    sessions: int
    """How many sessions unless the study says otherwise."""
    concurrency: int
    """Sessions alive at once unless the study says otherwise."""
    stagger_s: float
    """Time between the starts of the first `concurrency` sessions."""
    system_tokens: int
    """Start of every prompt that all sessions share."""
    first_prompt: Distribution
    """Length of a session's first prompt, system tokens included."""
    turns: Distribution
    """Calls of a session."""
    output: Distribution
    """Length of an answer. The next prompt repeats it."""
    new_input: Distribution
    """Tool results and user input that the next prompt adds behind the answer."""
    pause_s: Distribution
    """Tool or think time between an answer and the next call."""
    context_limit: int
    """A session whose prompt would grow beyond this starts over from a summary as long as a new first prompt."""
    rewrite_probability: float
    """Chance that a turn rewrites everything behind the system tokens, so that nothing else can be reused."""


SWE_AGENT: Final = AgentProfile(
    name="swe-agent",
    description="50k-token first prompt, about 800 more each turn, 10 to 15 turns, up to 500 output tokens",
    sessions=32,
    concurrency=8,
    stagger_s=2.0,
    system_tokens=12_000,
    first_prompt=Uniform(49_000, 51_000),
    turns=Uniform(10, 16),
    output=Uniform(100, 500),
    new_input=Quantiles(((0.0, 100), (0.5, 400), (0.9, 1_000), (1.0, 3_000))),
    pause_s=Quantiles(((0.0, 0.3), (0.5, 2.0), (0.9, 8.0), (1.0, 30.0))),
    context_limit=128_000,
    rewrite_probability=0.0,
)

CLAUDE_CODE: Final = AgentProfile(
    name="claude-code",
    description="follows the statistics of 500 recorded Claude Code sessions, with prompts limited to 200k tokens",
    sessions=32,
    concurrency=4,
    stagger_s=2.0,
    system_tokens=0,  # the recordings hash prefixes per session, so they show no sharing between sessions
    first_prompt=Quantiles(
        ((0.0, 10_000), (0.1, 15_300), (0.25, 18_500), (0.5, 22_800), (0.75, 104_900), (1.0, 190_000))
    ),
    turns=Quantiles(((0.0, 2), (0.1, 7), (0.25, 17), (0.5, 44), (0.75, 90), (0.9, 150), (1.0, 330))),
    output=Quantiles(((0.0, 40), (0.1, 105), (0.25, 137), (0.5, 216), (0.75, 432), (0.9, 898), (1.0, 4_000))),
    new_input=Quantiles(((0.0, 1), (0.1, 10), (0.25, 51), (0.5, 287), (0.75, 969), (0.9, 2_850), (1.0, 15_000))),
    pause_s=Quantiles(((0.0, 3), (0.1, 4), (0.25, 6), (0.5, 10), (0.75, 35), (0.9, 177), (0.99, 3_148), (1.0, 3_600))),
    context_limit=200_000,
    rewrite_probability=0.02,
)

PRESETS: Final = {profile.name: profile for profile in (SWE_AGENT, CLAUDE_CODE)}
"""Known presets by name."""

"""What the groups of claims promise: P1 to P15 of every state and step, L1 to L5 of what happens at last."""

TITLES = {
    "P1": "No block is ever lost",
    "P2": "One writer, and honest reference counts",
    "P3": "Nothing is freed or handed on while a step in flight may touch it",
    "P4": "Shared and cached blocks are complete and read-only",
    "P5": "Nothing appears or disappears: the counts add up",
    "P6": "Never run without memory, never on a token that nobody computed",
    "P7": "No double free, no use after free",
    "P8": "The tiers agree, also when a copy fails",
    "P9": "Devices and engines touch only what is theirs",
    "P10": "Abort is possible at any moment, and then everything comes back",
    "P11": "Results reach only the request that they were computed for",
    "P12": "Draft tokens stay within what was reserved",
    "P13": "Peers: what is in transfer stays where it is",
    "P14": "Determinism: every order is a total one, every choice has one outcome",
    "P15": "A cached prefix is what its name says, and can be reached",
    "L1": "No deadlock: what is due can be done",
    "L2": "Everything drains",
    "L3": "What was accepted is not set back by others",
    "L4": "Making room frees something",
    "L5": "Every accepted request finishes or is aborted",
}
"""The title of each group, in the order in which reports list them."""


def title(group: str) -> str:
    """The title of a group; lemmas have none."""
    return TITLES.get(group, "")

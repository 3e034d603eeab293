"""What a server serves: a model as clients see it, and the replica that runs it. No torch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..scheduler import Scheduler
from .loop.runner import Copier, Runner
from .loop.trace_recorder import TraceRecorder
from .run.drafts import Drafter
from .text.chat_template import ChatTemplate
from .text.prompts import PromptEncoder
from .text.replies.formats import ReplyFormat, detect
from .text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What clients can ask of the model."""

    name: str
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    max_model_len: int
    """Most tokens of prompt and output together."""
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time, seconds."""
    aliases: tuple[str, ...] = ()
    """Other names that clients may use; "*" takes every name."""
    prompts: PromptEncoder = field(init=False)
    replies: ReplyFormat = field(init=False)
    """How the model writes thinking and tool calls."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", PromptEncoder(self.tokenizer))
        source = self.chat_template.source if self.chat_template is not None else ""
        object.__setattr__(self, "replies", detect(source))

    def goes_by(self, name: str) -> bool:
        """Whether a client that says `name` means this model."""
        return name == self.name or name in self.aliases or "*" in self.aliases


@dataclass(frozen=True, slots=True)
class Replica:
    """What an engine is made of, and what clients may ask of it."""

    scheduler: Scheduler
    runner: Runner
    model: ServedModel
    host_pages: Copier | None = None
    """The host tier, if there is one."""
    trace: TraceRecorder | None = None
    """Records the scheduler's transitions, if anything does."""
    drafter: Drafter | None = None
    """Guesses what requests say next, if anything does."""

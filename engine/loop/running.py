"""What the control loop knows of a request between its submission and its end."""

from __future__ import annotations

from dataclasses import dataclass

from ..run.drafts import History
from ..text.answer import Answer


@dataclass(slots=True)
class Running:
    """A request between submission and its last event."""

    answer: Answer
    history: History | None
    """Prompt and output, if somebody drafts."""
    admitted: bool = False
    drafted: bool = False
    """Drafts were offered for it."""

    def accept(self, tokens: list[int]) -> tuple[str, int]:
        """Take what was sampled, up to the token that ends the request; returns the text and the number of tokens."""
        pieces = []
        for token in tokens:
            pieces.append(self.answer.accept(token))
            if self.history is not None:
                self.history.add(token)
            if self.answer.stopped:
                break
        return "".join(pieces), len(pieces)

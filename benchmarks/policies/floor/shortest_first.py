"""The shortest prompt first: what many expect to help when calls wait."""

from tokenspeed.scheduler import Policy, RequestView


class ShortestFirst(Policy):
    """Waiting calls are admitted by the length of their prompts."""

    def place(self, request: RequestView) -> tuple[int, int]:
        """Smaller is earlier; ties go by arrival."""
        return request.prompt_tokens, 0

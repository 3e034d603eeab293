"""Chat templates: Jinja sources from a checkpoint that turn messages into a prompt.

The environment gives templates what Hugging Face's convention promises them: `raise_exception`, `strftime_now`,
`tojson`, loop controls, and blocks trimmed. It is sandboxed, because a template is code that came with a checkpoint.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class ChatTemplateError(ValueError):
    """The template is not valid Jinja, or it refused the messages (its own words are in the message)."""


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what a trainer learns from; a server renders what is inside."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as templates expect it: no HTML escapes, keys in the order received (so that prompts stay byte-stable)."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """A compiled chat template with the checkpoint's special tokens."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`special_tokens`: such as {"bos_token": "<s>"}; `now`: the clock behind `strftime_now`.

        Raises ChatTemplateError if `source` is not valid Jinja.
        """
        self.source = source
        self.special_tokens = dict(special_tokens or {})
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ChatTemplateError(f"the chat template is not valid Jinja: {error}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for `messages` ([{"role": ..., "content": ...}, ...]), special tokens included as text.

        `add_generation_prompt` opens the assistant's turn; `variables` are further names that the template may read.
        Raises ChatTemplateError if the template refuses or cannot render the messages.
        """
        names = {**self.special_tokens, **variables}
        try:
            return self._template.render(
                messages=messages, tools=tools, documents=None, add_generation_prompt=add_generation_prompt, **names
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            # A template that joins a missing or non-string content fails in Python rather than in Jinja.
            raise ChatTemplateError(f"the chat template cannot render these messages: {error}") from error

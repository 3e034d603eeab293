"""Chat templates: Jinja sources from a checkpoint that turn messages into a prompt.

The environment gives templates what Hugging Face's convention promises them: `raise_exception`, `strftime_now`,
`tojson`, loop controls, and blocks trimmed. It is sandboxed, because a template is code that came with a checkpoint.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .chat_messages import RawObject


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
    if isinstance(value, RawObject) and indent is None and not sort_keys:
        return value.raw
    # Escapes would hide the marks of protected text from the encoder, so characters stay as they are.
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """A compiled chat template with the checkpoint's special tokens."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        """`special_tokens`: such as {"bos_token": "<s>"}; `now`: the clock behind `strftime_now`.

        Without `now`, templates see the moment at which they were compiled: a prompt must not change at midnight.

        Raises ChatTemplateError if `source` is not valid Jinja.
        """
        self.source = source
        self.special_tokens = dict(special_tokens or {})
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        compiled_at = datetime.now()
        environment.globals["strftime_now"] = lambda form: (now() if now else compiled_at).strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ChatTemplateError(f"the chat template is not valid Jinja: {error}") from error
        names = meta.find_undeclared_variables(environment.parse(source))
        self.knows_tools = "tools" in names
        """Whether the template writes tools and calls itself."""
        self.variables = frozenset(names)
        """Names that the template reads, such as enable_thinking."""
        self.takes_late_system = self._takes_late_system()
        """Whether a system message may stand behind others."""

    def _takes_late_system(self) -> bool:
        roles = (("system", "a"), ("user", "b"), ("system", "probe-c"), ("user", "d"))
        try:
            return "probe-c" in self.render([{"role": role, "content": text} for role, text in roles])
        except ChatTemplateError:
            return False

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
        except (TemplateError, ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError,
                AttributeError) as error:  # fmt: skip
            # A template that joins a missing or non-string content fails in Python rather than in Jinja.
            raise ChatTemplateError(f"the chat template cannot render these messages: {error}") from error

"""Chat templates render what transformers renders, in a sandbox, and refuse in words."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.engine.checkpoints.checkpoint import Checkpoint
from tokenspeed.engine.text.chat_template import ChatTemplate, ChatTemplateError

pytestmark = pytest.mark.serve

hf: Any = transformers  # typed in part only

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "read_file",
            "description": "Liest <eine> Datei & gibt 'ihren' Inhalt zurück",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}, "a": {"type": "integer"}}},
        },
    }
]
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  What?\n\n"}],
    [
        {"role": "user", "content": "2 < 3 & 'x' \"y\" {{ braces }} {% raw %}"},
        {"role": "assistant", "content": "Ja, ü 你好 🇺🇸"},
        {"role": "user", "content": ""},
    ],
]
TEMPLATES = {
    "controls": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "blocks": "{% for m in messages %}\n    {%- if true %}\n  {{ m['content'] }}\n    {% endif %}\n{% endfor %}\nend",
    "special tokens": "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content + eos_token }}{% endfor %}",
    "tools": "{% if tools %}{{ tools | tojson }}\n{{ tools | tojson(indent=4) }}{% else %}no tools{% endif %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "prompt": "{{ messages[-1].content }}{% if add_generation_prompt %}>>{% endif %}",
    "namespace": "{% set n = namespace(c=0) %}{% for m in messages %}{% set n.c = n.c + 1 %}{% endfor %}{{ n.c }}",
    "variables": "{{ enable_thinking is defined }}{{ documents is none }}{{ tools is none }}",
    "string methods": "{{ messages[0]['content'].strip().split(' ')[0].upper() }}",
}


def theirs(source: str) -> Any:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"<s>": 0, "</s>": 1}, merges=[]))
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=source, bos_token="<s>", eos_token="</s>")


def ours(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "system", "turns"])
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
def test_prompts_equal_those_of_transformers(source: str, messages: list[dict[str, Any]], tools: Any) -> None:
    reference = theirs(source)
    for prompt in (True, False):
        expected = reference.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)
        assert ours(source).render(messages, tools=tools, add_generation_prompt=prompt) == expected


@given(
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}),
        min_size=1,
    )
)
@settings(max_examples=100, deadline=None)
def test_smollm2_prompts_equal_those_of_transformers(smollm2: Checkpoint, messages: list[dict[str, str]]) -> None:
    assert smollm2.chat_template is not None
    expected = theirs(smollm2.chat_template.source).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert smollm2.chat_template.render(messages) == expected


def test_variables_reach_the_template() -> None:
    template = ours("{{ enable_thinking }} {{ bos_token }}")
    assert template.render([], enable_thinking=False, bos_token="<b>") == "False <b>"


def test_the_date_comes_from_the_clock_that_was_given() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2026, 2, 3))
    assert template.render([]) == "03 Feb 2026"


def test_a_refusal_is_told_in_the_template_s_own_words() -> None:
    template = ours("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        template.render([])


@pytest.mark.parametrize(
    "messages", [[], [{"role": "user"}], [{"role": "user", "content": None}], [{"role": "user", "content": [1]}]]
)
def test_messages_that_do_not_fit_the_template_are_a_clear_error(smollm2: Checkpoint, messages: list[Any]) -> None:
    template = ours("{{ messages[0].content + '.' }}")
    with pytest.raises(ChatTemplateError, match="cannot render these messages"):
        template.render(messages)


def test_what_is_not_jinja_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="not valid Jinja"):
        ours("{% for %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__closure__[0] }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_the_sandbox_holds(source: str, tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError):
        ours(source).render([{"role": "user", "content": "x"}])

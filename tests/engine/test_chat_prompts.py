"""Where a chat's prompt ends: behind the beginning of an answer, and outside a thought that a call may not be in."""

from __future__ import annotations

import pytest

from support.stand_ins import byte_tokenizer
from tokenspeed.engine.served_model import ServedModel
from tokenspeed.engine.server.conversation import Conversation, ToolChoice, chat_prompt
from tokenspeed.engine.text.chat_template import ChatTemplate

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ thought }}{% endif %}"
    "{% if tools %}{# <tool_call> {{ tools | tojson }} #}{% endif %}"
)


def model(thought: str = "") -> ServedModel:
    """A model with a template of ChatML's kind, which may open a thought."""
    return ServedModel("m", byte_tokenizer(), ChatTemplate(CHATML.replace("{{ thought }}", thought)), 4096)


@pytest.mark.parametrize("begun", ["<", "|", "im", "end", "an answer that is begun", "assistant"])
def test_an_answer_is_continued_where_it_ends(begun: str) -> None:
    served = model()
    talk = Conversation(
        [{"role": "user", "content": "go"}, {"role": "assistant", "content": begun}], "messages", continue_final=True
    )
    text = served.tokenizer.decode(chat_prompt(served, talk).ids.tolist())
    assert text.endswith(f"assistant\n{begun}")


@pytest.mark.parametrize("thought", ["", "<think>\n"])
def test_a_forced_call_begins_outside_a_thought(thought: str) -> None:
    served = model(thought)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    talk = Conversation([{"role": "user", "content": "go"}], "messages", tools=tools, choice=ToolChoice("required"))
    prompt = chat_prompt(served, talk)
    assert prompt.thinking == bool(thought)
    assert prompt.prefill.endswith('"arguments": ')
    assert prompt.prefill.strip().startswith("</think>" if thought else "<tool_call>")

"""Tool calls and thinking out of the replies of each family of models, however the stream is cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.engine.text.replies.events import CallArguments, CallStarted, Thinking, Words
from tokenspeed.engine.text.replies.formats import FORMATS, detect
from tokenspeed.engine.text.replies.parser import ReplyParser

TOOLS: dict[str, dict[str, Any]] = {
    "bash": {"type": "object", "properties": {"command": {"type": "string"}, "timeout": {"type": "integer"}}},
    "read": {"type": "object", "properties": {"path": {"type": "string"}}},
}
LS = {"command": "ls -la", "timeout": 5}
TRICKY = {"command": 'echo "</tool_call> {[" | tee \\ x\n'}
CAT = {"path": "/a/b.py"}


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def obj(name: str, arguments: Any, key: str = "arguments") -> str:
    return dump({"name": name, key: arguments})


# Format, reply, words, calls: as the models of the family write them.
REPLIES: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
    ("hermes", "Hello there.", "Hello there.", []),
    ("hermes", f"<tool_call>\n{obj('bash', LS)}\n</tool_call>", "", [("bash", LS)]),
    ("hermes", f"I look.\n<tool_call>\n{obj('bash', TRICKY)}\n</tool_call>\n<tool_call>\n{obj('read', CAT)}\n</tool_call>", "I look.", [("bash", TRICKY), ("read", CAT)]),
    ("hermes", f'<tool_call>{dump({"arguments": LS, "name": "bash"})}</tool_call>', "", [("bash", LS)]),
    ("hermes", "<tool_call>\nnot json at all\n</tool_call> after", "<tool_call>\nnot json at all\n</tool_call> after", []),
    ("hermes", "a < b and <tool_c is no call", "a < b and <tool_c is no call", []),
    ("qwen3-coder", "Now:\n<tool_call>\n<function=bash>\n<parameter=command>\nls -la\n</parameter>\n<parameter=timeout>\n5\n</parameter>\n</function>\n</tool_call>", "Now:", [("bash", LS)]),
    ("glm4", "<tool_call>bash\n<arg_key>command</arg_key>\n<arg_value>ls -la</arg_value>\n<arg_key>timeout</arg_key>\n<arg_value>5</arg_value>\n</tool_call>", "", [("bash", LS)]),
    ("kimi-k2", f"Ok.<|tool_calls_section_begin|><|tool_call_begin|>functions.bash:0<|tool_call_argument_begin|>{dump(LS)}<|tool_call_end|><|tool_call_begin|>functions.read:1<|tool_call_argument_begin|>{dump(CAT)}<|tool_call_end|><|tool_calls_section_end|>", "Ok.", [("bash", LS), ("read", CAT)]),
    ("deepseek-v3", f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>bash\n```json\n{dump(LS)}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>read\n```json\n{dump(CAT)}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "", [("bash", LS), ("read", CAT)]),
    ("deepseek-v3.1", f"Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>bash<｜tool▁sep｜>{dump(TRICKY)}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "Hm.", [("bash", TRICKY)]),
    ("llama3", obj("bash", LS, "parameters"), "", [("bash", LS)]),
    ("llama3", f"<|python_tag|>{obj('bash', LS, 'parameters')}<|eom_id|>", "", [("bash", LS)]),
    ("llama3", '{"not": "a call"}', '{"not": "a call"}', []),
    ("mistral", f"[TOOL_CALLS][{obj('bash', LS)}, {obj('read', CAT)}]", "", [("bash", LS), ("read", CAT)]),
    ("mistral", f"Sure.[TOOL_CALLS]bash[ARGS]{dump(LS)}[TOOL_CALLS]read[ARGS]{dump(CAT)}", "Sure.", [("bash", LS), ("read", CAT)]),
    ("plain", "<tool_call> is text here", "<tool_call> is text here", []),
]  # fmt: skip


def collect(pieces: list[str], form: str, thinking: bool = False, parallel: bool = True) -> dict[str, Any]:
    parser = ReplyParser(FORMATS[form], TOOLS, thinking=thinking, parallel=parallel)
    words, thoughts = "", ""
    names: list[str] = []
    ids: list[str | None] = []
    arguments: dict[int, str] = {}
    for event in [e for piece in pieces for e in parser.feed(piece)] + parser.finish():
        match event:
            case Words(text):
                words += text
            case Thinking(text):
                thoughts += text
            case CallStarted(index, name, call_id):
                assert index == len(names)
                names.append(name)
                ids.append(call_id)
                arguments[index] = ""
            case CallArguments(index, text):
                assert index == len(names) - 1, "arguments belong to the newest call"
                arguments[index] += text
    return {"words": words, "thinking": thoughts, "ids": ids,
            "calls": [(name, arguments[i]) for i, name in enumerate(names)]}  # fmt: skip


def parsed(calls: list[tuple[str, str]]) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in calls]


@pytest.mark.parametrize(("form", "reply", "words", "calls"), REPLIES)
def test_reply_in_one_piece_and_in_characters(form: str, reply: str, words: str, calls: Any) -> None:
    for pieces in ([reply], list(reply)):
        seen = collect(pieces, form)
        assert (seen["words"].rstrip(), parsed(seen["calls"])) == (words, calls)


@given(st.sampled_from(REPLIES), st.lists(st.integers(0, 400), max_size=12))
@settings(deadline=None, max_examples=150)
def test_the_cut_of_the_stream_changes_nothing(case: Any, cuts: list[int]) -> None:
    form, reply, _, _ = case
    borders = sorted({0, len(reply), *(cut % (len(reply) + 1) for cut in cuts)})
    pieces = [reply[a:b] for a, b in itertools.pairwise(borders)]
    assert collect(pieces, form) == collect([reply], form)


@given(st.text(alphabet='<>/|tol_cal\n{}"[] x', max_size=40))
@settings(deadline=None)
def test_no_text_is_lost_or_fails(text: str) -> None:
    for form in FORMATS:
        seen = collect(list(text), form)
        assert seen == collect([text], form)
        if not seen["calls"] and form != "mistral":
            marks = [m for m in FORMATS[form].marks if m in text]
            assert marks or "".join(seen["words"].split()) == "".join(text.split())


def test_arguments_stream_as_they_come() -> None:
    parser = ReplyParser(FORMATS["hermes"], TOOLS)
    parser.feed('<tool_call>\n{"name": "bash", "arguments": {"comm')
    events = parser.feed('and": "l')
    assert events == [CallArguments(0, 'and": "l')]


def test_thinking_before_the_answer() -> None:
    reply = f"<think>\nLet me see.\n</think>\n\nDone.\n<tool_call>\n{obj('bash', LS)}\n</tool_call>"
    for pieces in ([reply], list(reply)):
        seen = collect(pieces, "hermes")
        assert (seen["thinking"], seen["words"].rstrip(), parsed(seen["calls"])) == (
            "Let me see.",
            "Done.",
            [("bash", LS)],
        )
    opened = collect(list("Let me see.\n</think>\nDone."), "hermes", thinking=True)
    assert (opened["thinking"], opened["words"]) == ("Let me see.", "Done.")


def test_kimi_ids_are_kept_and_name_the_function() -> None:
    reply = REPLIES[8][1]
    assert collect([reply], "kimi-k2")["ids"] == ["functions.bash:0", "functions.read:1"]


def test_only_the_first_call_if_parallel_calls_are_not_wanted() -> None:
    assert [name for name, _ in collect([REPLIES[2][1]], "hermes", parallel=False)["calls"]] == ["bash"]


def test_a_call_that_is_cut_off_gives_what_there_was() -> None:
    seen = collect(['<tool_call>\n{"name": "bash", "arguments": {"command": "ls'], "hermes")
    assert seen["calls"] == [("bash", '{"command": "ls')]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ '<tool_call>' }} <function=x>", "qwen3-coder"),
        ("<|tool_call_argument_begin|>", "kimi-k2"),
        ("[TOOL_CALLS]", "mistral"),
        ("<｜tool▁sep｜> ```json", "deepseek-v3"),
        ("<｜tool▁sep｜>", "deepseek-v3.1"),
        ("<arg_key>", "glm4"),
        ("{% for m in messages %}", "hermes"),
    ],
)
def test_the_template_tells_the_format(source: str, name: str) -> None:
    assert detect(source).name == name


@pytest.mark.parametrize(
    ("form", "reply"),
    [
        ("qwen3-coder", '<tool_call>\n<function=f>\n<parameter=a>\n"\\ud83d"\n</parameter>\n</function>\n</tool_call>'),
        ("llama3", '{"name": "f\\ud83d", "parameters": {"a": 1}}'),
    ],
)
def test_halves_of_surrogate_pairs_can_be_sent(form: str, reply: str) -> None:
    seen = collect([reply], form)
    assert seen["calls"]
    for name, arguments in seen["calls"]:
        assert (name + arguments).encode()

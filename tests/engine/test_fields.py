"""No field that changes the answer is ignored in silence: each that other servers take is taken or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support import stand_ins as serving
from tokenspeed.engine.server.field_table import BODIES, PAGE, page
from tokenspeed.engine.server.openai.bodies import ChatCompletionRequest, CompletionRequest
from tokenspeed.engine.server.openai.fields import REFUSED

# The fields of the request bodies of vLLM 0.32 and SGLang 0.5.23, and of llama.cpp's server where they have others.
VLLM = """
add_generation_prompt add_special_tokens allowed_token_ids bad_words best_of cache_salt chat_template
chat_template_kwargs continue_final_message documents echo frequency_penalty guided_choice guided_decoding_backend
guided_grammar guided_json guided_regex guided_whitespace_pattern ignore_eos include_reasoning
include_stop_str_in_output kv_transfer_params length_penalty logit_bias logits_processors logprobs max_completion_tokens
max_tokens media_io_kwargs messages min_p min_tokens mm_processor_kwargs model n parallel_tool_calls presence_penalty
priority prompt prompt_embeds prompt_logprobs reasoning_effort repetition_detection repetition_penalty request_id
response_format return_token_ids return_tokens_as_token_ids seed skip_special_tokens spaces_between_special_tokens stop
stop_token_ids stream stream_options structural_tag structured_outputs suffix temperature thinking_token_budget
tool_choice tools top_k top_logprobs top_p truncate_prompt_tokens use_beam_search user vllm_xargs
"""
SGLANG = """
bootstrap_host bootstrap_port bootstrap_room custom_logit_processor custom_params data_parallel_rank ebnf extra_key
input_ids json_schema lora_path no_stop_trim regex return_cached_tokens_details return_hidden_states
return_routed_experts rid separate_reasoning session_params stop_regex stream_reasoning token_ids_logprob
"""
LLAMA_CPP = "grammar json_schema mirostat repeat_penalty typical_p"
NAMES = sorted({*VLLM.split(), *SGLANG.split(), *LLAMA_CPP.split()})


@pytest.fixture(scope="module")
def server() -> Iterator[serving.ServerThread]:
    with serving.running_server() as running:
        yield running


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_other_servers_has_its_place(name: str) -> None:
    for body in (ChatCompletionRequest, CompletionRequest):
        taken, ignored, refused = name in body.model_fields, name in body.ignored, name in body.refused
        elsewhere = {ChatCompletionRequest: {"prompt", "suffix"}, CompletionRequest: CHAT_ONLY}[body]
        assert taken + ignored + refused == 1 or (name in elsewhere and not refused)


# Fields of chats say nothing about a completion, whose prompt is rendered by the client, and the other way round.
CHAT_ONLY = {
    "add_generation_prompt",
    "chat_template_kwargs",
    "continue_final_message",
    "include_reasoning",
    "parallel_tool_calls",
    "tool_choice",
}


def test_refused_fields_are_refused_and_neutral_values_are_not(server: serving.ServerThread) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "chat/completions": {"messages": [{"role": "user", "content": "say:x|"}]},
        "completions": {"prompt": "say:x|"},
    }
    with httpx.Client(base_url=server.url) as client:
        for path, body in bodies.items():
            for name in REFUSED:
                answer = client.post(f"/v1/{path}", json=body | {name: {"a": 1}})
                assert answer.status_code == 400, name
                assert answer.json()["error"]["param"] == name
            everything = {name: neutral[-1] for name, neutral in REFUSED.items()}
            assert client.post(f"/v1/{path}", json=body | everything).status_code == 200


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "run: python -m tokenspeed.engine.server.field_table"


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_no_field_is_two_things(path: str, body: Any) -> None:
    assert not set(body.refused) & {*body.ignored, *body.model_fields}

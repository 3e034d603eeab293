"""Fields of OpenAI's requests, and of the servers that extend them, that are not taken: refused, or without effect.

A field that would change the answer is refused by name unless its value changes nothing. Together with the fields of
the bodies this covers what vLLM and SGLang take; `docs/serving.md` has the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_EMPTY: Final[tuple[Any, ...]] = (None, False, "", [], {})

REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    # Penalties and biases of the sampler.
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "repeat_penalty": (None, 1),
    "length_penalty": (None, 1),
    "logit_bias": _EMPTY,
    "min_tokens": (None, 0),
    "bad_words": _EMPTY,
    "allowed_token_ids": _EMPTY,
    "typical_p": (None, 1),
    "mirostat": (None, 0),
    "logits_processors": _EMPTY,
    "custom_logit_processor": _EMPTY,
    "custom_params": _EMPTY,
    "repetition_detection": _EMPTY,
    "stop_regex": _EMPTY,
    "add_special_tokens": (None,),
    "use_beam_search": _EMPTY,
    # Log probabilities and what else is told beside the text.
    "top_logprobs": (None, 0),
    "prompt_logprobs": (None,),
    "token_ids_logprob": _EMPTY,
    "return_token_ids": _EMPTY,
    "return_tokens_as_token_ids": _EMPTY,
    "return_hidden_states": _EMPTY,
    "return_routed_experts": _EMPTY,
    # Constrained output.
    "guided_json": _EMPTY,
    "guided_regex": _EMPTY,
    "guided_choice": _EMPTY,
    "guided_grammar": _EMPTY,
    "structured_outputs": _EMPTY,
    "structural_tag": _EMPTY,
    "regex": _EMPTY,
    "ebnf": _EMPTY,
    "grammar": _EMPTY,
    "json_schema": _EMPTY,
    # Prompts of other kinds.
    "functions": (None, []),
    "function_call": (None,),
    "truncate_prompt_tokens": (None,),
    "prompt_embeds": _EMPTY,
    "input_ids": _EMPTY,
    "input_embeds": _EMPTY,
    "documents": _EMPTY,
    "chat_template": (None,),
    "audio": _EMPTY,
    "modalities": (None, [], ["text"]),
    "prediction": _EMPTY,
    "web_search_options": (None,),
    "media_io_kwargs": _EMPTY,
    "mm_processor_kwargs": _EMPTY,
    "spaces_between_special_tokens": (None, True),
    # Other models and places.
    "lora_path": _EMPTY,
    "session_params": _EMPTY,
    "kv_transfer_params": _EMPTY,
    "bootstrap_host": (None,),
    "bootstrap_port": (None,),
    "bootstrap_room": (None,),
    "data_parallel_rank": (None,),
    "vllm_xargs": _EMPTY,
    "cache_salt": _EMPTY,
    "extra_key": _EMPTY,
    "priority": (None, 0),
    "thinking_token_budget": (None,),
}
"""Fields that are refused, with the values that are taken because they ask for nothing."""

IGNORED: Final = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
    "request_id",
    "rid",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "separate_reasoning",
    "stream_reasoning",
    "include_reasoning",
    "return_cached_tokens_details",
)
"""Fields that are taken and have no effect on the answer here."""

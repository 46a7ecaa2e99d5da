"""Fields of other servers' APIs, vLLM's and SGLang's above all, that this one does not have.

Their clients send them, mostly with a value that asks for nothing; any other value is refused, as it would change the
answer.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, model_validator
from pydantic_core import PydanticCustomError

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_beam_search": (None, False),
    "length_penalty": (None, 1.0),
    "early_stopping": (None, False),
    "bad_words": (None, []),
    "logits_processors": (None, []),
    "custom_logit_processor": (None,),
    "watermarking": (None, False),
    "repetition_detection": (None,),
    "thinking_token_budget": (None,),
    "truncate_prompt_tokens": (None,),
    "truncation_side": (None, "left", "right"),  # of a prompt that is not truncated
    "detokenize": (None, True),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, False, True),  # none are shown
    "stop_regex": (None, []),
    "no_stop_trim": (None, False),
    "regex": (None,),
    "ebnf": (None,),
    "guided_decoding_backend": (None,),
    "guided_whitespace_pattern": (None,),
    "logprob_token_ids": (None, []),
    "flat_logprobs": (None, False),
    "return_tokens_as_token_ids": (None, False),
    "return_token_ids": (None, False),
    "return_token_offsets": (None, False),
    "return_hidden_states": (None, False),
    "return_routed_experts": (None, False),
    "routed_experts_prompt_start": (None, 0),
    "stream_interval": (None, 1),
    "request_id": (None,),
    "session_id": (None,),
    "cache_salt": (None,),
    "lora_path": (None,),
    "kv_transfer_params": (None, {}),
    "ec_transfer_params": (None, {}),
    "vllm_xargs": (None, {}),
    "custom_params": (None, {}),
}

NEUTRAL_IN_COMPLETIONS: dict[str, tuple[Any, ...]] = {
    "prompt_embeds": (None,),
    "json_schema": (None,),
}

NEUTRAL_IN_CHAT: dict[str, tuple[Any, ...]] = {
    "echo": (None, False),
    "add_special_tokens": (None, False),  # beside those of the chat template
    "add_generation_prompt": (None, True),
    "continue_final_message": (None, False),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "documents": (None, []),
    "include_reasoning": (None, True),
    "separate_reasoning": (None, True),
    "stream_reasoning": (None, True),
    "return_prompt_text": (None, False),
    "mm_processor_kwargs": (None, {}),
    "media_io_kwargs": (None, {}),
}


NEUTRAL_IN_STRUCTURED_OUTPUTS: dict[str, tuple[Any, ...]] = {
    "disable_any_whitespace": (None, False),
    "disable_additional_properties": (None, False),
    "whitespace_pattern": (None,),
    "structural_tag": (None,),
}


class Discerning(BaseModel):
    """A shape that refuses what it knows and this server does not do, unless the value asks for nothing."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def refuse_unsupported(cls, data: Any) -> Any:
        """What this server does not do is named before what is wrong: a message that calls a tool has no content."""
        for name, value in data.items() if isinstance(data, dict) else ():
            harmless = cls.unsupported.get(name)
            if harmless is None or name not in cls.model_fields:
                continue
            if not any(_same(value, good) for good in harmless):
                raise PydanticCustomError("unsupported", "is not supported by this server", {"field": name})
        return data


def _same(value: object, other: object) -> bool:
    """Whether both are the same in JSON: 1 is 1.0, but not true."""
    return value == other and (type(value) is bool) == (type(other) is bool)


class ForeignBody(BaseModel):
    """What both generating routes take of these."""

    use_beam_search: Any = None
    length_penalty: Any = None
    early_stopping: Any = None
    bad_words: Any = None
    logits_processors: Any = None
    custom_logit_processor: Any = None
    watermarking: Any = None
    repetition_detection: Any = None
    thinking_token_budget: Any = None
    truncate_prompt_tokens: Any = None
    truncation_side: Any = None
    detokenize: Any = None
    skip_special_tokens: Any = None
    spaces_between_special_tokens: Any = None
    stop_regex: Any = None
    no_stop_trim: Any = None
    regex: Any = None
    ebnf: Any = None
    guided_decoding_backend: Any = None
    guided_whitespace_pattern: Any = None
    logprob_token_ids: Any = None
    flat_logprobs: Any = None
    return_tokens_as_token_ids: Any = None
    return_token_ids: Any = None
    return_token_offsets: Any = None
    return_hidden_states: Any = None
    return_routed_experts: Any = None
    routed_experts_prompt_start: Any = None
    stream_interval: Any = None
    request_id: Any = None
    session_id: Any = None
    cache_salt: Any = None
    lora_path: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    vllm_xargs: Any = None
    custom_params: Any = None


class ForeignCompletionBody(BaseModel):
    prompt_embeds: Any = None
    json_schema: Any = None


class ForeignChatBody(BaseModel):
    echo: Any = None
    add_special_tokens: Any = None
    add_generation_prompt: Any = None
    continue_final_message: Any = None
    chat_template: Any = None
    chat_template_kwargs: Any = None
    documents: Any = None
    include_reasoning: Any = None
    separate_reasoning: Any = None
    stream_reasoning: Any = None
    return_prompt_text: Any = None
    mm_processor_kwargs: Any = None
    media_io_kwargs: Any = None

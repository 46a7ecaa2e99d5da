"""From the bodies of REST to the calls of the service, and to what the answer is to look like."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from server.call import Conversation, FactWishes, GenerateCall, Message, Prompt, Reading, RoutingDetail, SamplingWishes
from server.errors import InvalidValue
from server.transport.rest.forms import guidance_of
from server.transport.rest.schema import ChatBody, CompletionBody, DynoOptions, GenerationBody, ReadingBody


@dataclass(frozen=True, slots=True)
class AnswerWishes:
    """How the answer is to look. `facts` None: without the `dyno` extension."""

    stream: bool
    usage: bool
    usage_always: bool
    facts: FactWishes | None
    scores: bool = False  # of the prompt, by the name of prompt_logprobs
    names: dict[str, str] = field(default_factory=dict)
    """What this caller calls fields of the domain, where that is not their usual name."""


def completion_call(body: CompletionBody) -> GenerateCall:
    """The call that a completion asks for. With `echo` the log-probabilities that it asks for are also the prompt's."""
    call = _call(body, body.prompt, body.max_tokens, body.logprobs, fill=False)
    call = replace(call, reading=reading_of(body))
    asked = [count for count in (body.prompt_logprobs, body.logprobs) if count is not None]
    return replace(call, echo=True, prompt_logprobs=max(asked, default=None)) if body.echo else call


def prompts_in(body: GenerationBody) -> int:
    """How many prompts it has: a conversation is one."""
    return len(body.prompt) if isinstance(body, CompletionBody) else 1


def reading_of(body: ReadingBody) -> Reading:
    return Reading(framed=body.add_special_tokens is not False, markup=not body.split_special_tokens)


def chat_call(body: ChatBody) -> GenerateCall:
    """The call that a chat asks for. Without a limit of its own an answer may fill the context: a conversation has no
    natural short length."""
    messages = tuple(Message(message.role, message.content) for message in body.messages)
    return _call(body, (Conversation(messages),), _chat_max_tokens(body), _chat_logprobs(body), fill=True)


def answer_wishes(body: GenerationBody) -> AnswerWishes:
    stream, options = bool(body.stream), body.stream_options
    if options is not None and not stream:
        raise InvalidValue("stream_options needs stream to be true", param="stream_options")
    usage = options is not None and bool(options.include_usage)
    always = options is not None and bool(options.continuous_usage_stats)
    facts = None if body.dyno is None else _facts(body.dyno)
    return AnswerWishes(stream, usage, usage and always, facts, body.prompt_logprobs is not None, _names(body))


def _names(body: GenerationBody) -> dict[str, str]:
    if not isinstance(body, ChatBody):
        return {}
    limit = {} if body.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}
    return {"logprobs": "top_logprobs", **limit}


def _call(
    body: GenerationBody,
    prompts: tuple[Prompt, ...],
    max_tokens: int | None,
    logprobs: int | None,
    fill: bool,
) -> GenerateCall:
    return GenerateCall(
        model=body.model,
        prompts=prompts,
        sampling=_sampling(body, max_tokens),
        n=body.n,
        logprobs=logprobs,
        prompt_logprobs=body.prompt_logprobs,
        guidance=guidance_of(body),
        priority=body.priority,
        user=body.user,
        fill_context=fill,
    )


def _facts(options: DynoOptions) -> FactWishes:
    """Everything, unless it is declined."""
    return FactWishes(
        routing=RoutingDetail(options.routing or RoutingDetail.LAYERS),
        latency=options.latency is not False,
        compute=options.compute is not False,
        routing_start=options.routing_start or 0,
    )


def _sampling(body: GenerationBody, max_tokens: int | None) -> SamplingWishes:
    return SamplingWishes(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=body.logit_bias,
        seed=body.seed,
        stop=body.stop,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        allowed_token_ids=None if body.allowed_token_ids is None else tuple(body.allowed_token_ids),
        include_stop=bool(body.include_stop_str_in_output),
    )


def _chat_max_tokens(body: ChatBody) -> int | None:
    """OpenAI renamed the field; clients send either, or both."""
    old, new = body.max_tokens, body.max_completion_tokens
    if None not in (old, new) and old != new:
        message = f"max_completion_tokens is {new} and max_tokens, its older name, is {old}"
        raise InvalidValue(message, param="max_completion_tokens")
    return old if new is None else new


def _chat_logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidValue("top_logprobs needs logprobs to be true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None

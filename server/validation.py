"""The one validator: both transports bring a call here and nowhere else. Every refusal names field, value and limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from server.call import Conversation, GenerateCall, Message, Prompt, SamplingWishes
from server.engine.request import Sampling
from server.errors import ContextLengthExceeded, InvalidValue, MissingValue, UnsupportedField, field_of, shown
from server.guidance.grammar import check_guidance
from server.limits import Limits
from server.models import ServedModel

T = TypeVar("T")

DEFAULT_MAX_TOKENS = 16  # OpenAI's for completions
GREEDY_BELOW = 1e-5  # a lower temperature is the greedy limit; dividing by it would overflow
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""What a caller may say → what a template knows: developer is OpenAI's newer name."""
SEED_BITS = 63
GOLDEN = 0x9E3779B97F4A7C15  # odd, so that the seeds of the choices of one call differ


def check_call(call: GenerateCall, model: ServedModel, limits: Limits) -> None:
    """Everything that can be said before the prompt is tokenised; raises InvalidRequest."""
    _count("n", call.n, 1, limits.choices)
    _count("logprobs", call.logprobs, 0, limits.logprobs)
    _count("prompt_logprobs", call.prompt_logprobs, 0, limits.logprobs)
    _count("priority", call.priority, -limits.priority, limits.priority)
    _count("dyno.routing_start", call.facts.routing_start, 0, 2**31 - 1)
    if call.user is not None:
        check_label("user", call.user, limits.user_chars)
    _check_prompts(call.prompts, model, limits)
    _check_sampling(call.sampling, model, limits)
    _check_allowed(call, model, limits)
    if call.guidance is not None:
        check_guidance(call.guidance, limits)
    if call.prompt_logprobs is not None and model.answer_start:
        message = f"model {shown(model.name)} reads its prompt with an encoder, which has no log-probabilities"
        asked = "echo" if call.echo else "prompt_logprobs"  # with logprobs, an echo has those of the prompt
        raise UnsupportedField(f"{asked}: {message}", param=asked)


def most_generations(call: GenerateCall, limits: Limits) -> int:
    """How many a call that was not checked yet comes to, should it be found good."""
    return most_answers(len(call.prompts), call.n, limits)


def most_answers(prompts: int, n: int | None, limits: Limits) -> int:
    """How many so many prompts and this `n`, not checked yet, come to, should they be found good."""
    return max(1, min(prompts, limits.prompts)) * max(1, min(n or 1, limits.choices))


def check_text(param: str, text: str, limits: Limits) -> None:
    """Text to be tokenised."""
    if "\0" in text:
        raise InvalidValue(f"{param} may not contain NUL characters", param=field_of(param))
    if len(text) > limits.content_chars:
        raise InvalidValue.at_most(param, len(text), limits.content_chars, "characters")


def check_label(param: str, text: str, chars: int) -> None:
    """A name for the operator's eyes."""
    if len(text) > chars:
        raise InvalidValue.at_most(param, len(text), chars, "characters")
    if not text.isprintable():
        raise InvalidValue(f"{param} may not contain control characters, got {shown(text)}", param=param)


def check_token_ids(param: str, ids: Sequence[int], vocab: int) -> None:
    wrong = next((i for i, token in enumerate(ids) if not 0 <= token < vocab), None)
    if wrong is not None:
        message = f"{param}[{wrong}] must be a token id between 0 and {vocab - 1}, got {shown(ids[wrong])}"
        raise InvalidValue(message, param=field_of(param))


def _check_prompts(prompts: Sequence[Prompt], model: ServedModel, limits: Limits) -> None:
    if not prompts:
        raise MissingValue("prompt must not be empty", param="prompt")
    if len(prompts) > limits.prompts:
        raise InvalidValue.at_most("prompt", len(prompts), limits.prompts, "prompts")
    for index, prompt in enumerate(prompts):
        param = "prompt" if len(prompts) == 1 else f"prompt[{index}]"
        if isinstance(prompt, Conversation):
            _check_conversation(prompt, model, limits)
        elif isinstance(prompt, str):
            check_text(param, prompt, limits)
        elif not prompt:
            raise InvalidValue(f"{param} must have at least one token id, got none", param="prompt")
        else:
            check_token_ids(param, prompt, model.vocab)


def _not_blank(param: str, text: str) -> None:
    if not text.strip():
        raise InvalidValue(f"{param} must have something but white space, got {shown(text)}", param=field_of(param))


def _check_conversation(conversation: Conversation, model: ServedModel, limits: Limits) -> None:
    messages = conversation.messages
    if not model.tokenizer.chat:
        raise UnsupportedField(f"model {shown(model.name)} has no chat template; give it a prompt", param="messages")
    if not messages:
        raise InvalidValue("messages must have at least one message, got none", param="messages")
    if len(messages) > limits.messages:
        raise InvalidValue.at_most("messages", len(messages), limits.messages, "messages")
    for index, message in enumerate(messages):
        _check_message(f"messages[{index}]", message, limits)
    total = sum(len(message.content) for message in messages)
    if total > limits.content_chars:
        raise InvalidValue.at_most("messages", total, limits.content_chars, "characters")
    _not_blank(f"messages[{len(messages) - 1}].content", messages[-1].content)


def _check_message(param: str, message: Message, limits: Limits) -> None:
    if message.role not in ROLES:
        text = f"{param}.role must be one of {', '.join(ROLES)}, got {shown(message.role)}"
        raise InvalidValue(text, param=f"{param}.role")
    check_text(f"{param}.content", message.content, limits)


def _check_sampling(wishes: SamplingWishes, model: ServedModel, limits: Limits) -> None:
    _number("temperature", wishes.temperature, 0, limits.temperature)
    _count("top_k", wishes.top_k, -1, 2**31 - 1)
    _number("top_p", wishes.top_p, 0, 1)
    if wishes.top_p == 0:
        raise InvalidValue("top_p must be above 0 and at most 1, got 0", param="top_p")
    _number("min_p", wishes.min_p, 0, 1)
    _number("presence_penalty", wishes.presence_penalty, -limits.penalty, limits.penalty)
    _number("frequency_penalty", wishes.frequency_penalty, -limits.penalty, limits.penalty)
    _number("repetition_penalty", wishes.repetition_penalty, *limits.repetition)
    _count("seed", wishes.seed, -(2**63), 2**63 - 1)
    _check_bias(wishes.logit_bias, model, limits)
    _check_stops(wishes, model, limits)


def _check_bias(bias: Sequence[tuple[int, float]], model: ServedModel, limits: Limits) -> None:
    if len(bias) > limits.logit_bias:
        raise InvalidValue.at_most("logit_bias", len(bias), limits.logit_bias, "entries")
    for token, value in bias:
        if not 0 <= token < model.vocab:
            text = f"logit_bias names token {shown(token)}; token ids run from 0 to {model.vocab - 1}"
            raise InvalidValue(text, param="logit_bias")
        if not -limits.bias <= value <= limits.bias:
            text = f"logit_bias of token {token} must be between {-limits.bias:g} and {limits.bias:g}"
            raise InvalidValue(f"{text}, got {shown(value)}", param="logit_bias")


def _check_stops(wishes: SamplingWishes, model: ServedModel, limits: Limits) -> None:
    if len(wishes.stop) > limits.stop:
        raise InvalidValue.at_most("stop", len(wishes.stop), limits.stop, "strings")
    for index, stop in enumerate(wishes.stop):
        if not stop:
            raise InvalidValue(f"stop[{index}] must not be empty", param="stop")
        if len(stop) > limits.stop_chars:
            raise InvalidValue.at_most(f"stop[{index}]", len(stop), limits.stop_chars, "characters")
    if len(wishes.stop_token_ids) > limits.stop_ids:
        raise InvalidValue.at_most("stop_token_ids", len(wishes.stop_token_ids), limits.stop_ids, "ids")
    check_token_ids("stop_token_ids", wishes.stop_token_ids, model.vocab)


def _check_allowed(call: GenerateCall, model: ServedModel, limits: Limits) -> None:
    allowed = call.sampling.allowed_token_ids
    if allowed is None:
        return
    if not allowed:
        raise InvalidValue("allowed_token_ids must have at least one id, got none", param="allowed_token_ids")
    if len(allowed) > limits.allowed_ids:
        raise InvalidValue.at_most("allowed_token_ids", len(allowed), limits.allowed_ids, "ids")
    check_token_ids("allowed_token_ids", allowed, model.vocab)
    if call.guidance is not None:
        message = "allowed_token_ids cannot be given together with a form of the answer"
        raise InvalidValue(message, param="allowed_token_ids")


def _number(param: str, value: float | None, low: float, high: float) -> None:
    """Also refuses NaN, which compares false with everything."""
    if value is not None and not low <= value <= high:
        raise InvalidValue.between(param, value, f"{low:g}", f"{high:g}")


def _count(param: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise InvalidValue.between(param, value, low, high)


def fitting_sampling(
    call: GenerateCall, model: ServedModel, prompt_tokens: int, fresh_seed: Callable[[], int]
) -> Sampling:
    """The call's sampling for a prompt of this length, every default filled in."""
    wishes = call.sampling
    max_tokens = _max_tokens(call, model, prompt_tokens)
    min_tokens = _given(wishes.min_tokens, 0)
    if not 0 <= min_tokens <= max_tokens:
        raise InvalidValue.between("min_tokens", min_tokens, 0, f"max_tokens, {max_tokens}")
    temperature = _given(wishes.temperature, 1.0)
    ends = frozenset() if wishes.ignore_eos else model.ends
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=temperature if temperature >= GREEDY_BELOW else 0.0,
        top_k=max(0, _given(wishes.top_k, 0)),  # -1, which other servers have for all
        top_p=_given(wishes.top_p, 1.0),
        min_p=_given(wishes.min_p, 0.0),
        presence_penalty=_given(wishes.presence_penalty, 0.0),
        frequency_penalty=_given(wishes.frequency_penalty, 0.0),
        repetition_penalty=_given(wishes.repetition_penalty, 1.0),
        logit_bias=wishes.logit_bias,
        seed=fresh_seed() if wishes.seed is None else wishes.seed,
        logprobs=call.logprobs,
        stop_ids=ends | frozenset(wishes.stop_token_ids),
        prompt_logprobs=call.prompt_logprobs,
    )


def check_source(model: ServedModel, source: Sequence[int]) -> None:
    """What an encoder is to read."""
    if source and len(source) > model.longest_source:
        longest = f"{_longest(model)}, of which the encoder takes {model.longest_source}"
        raise ContextLengthExceeded(f"{longest}; a prompt of {len(source)} tokens exceeds that", param="prompt")


def choice_seed(seed: int, index: int) -> int:
    """Each of a call's n choices draws on its own; the first one as if it were alone."""
    return (seed + index * GOLDEN) % (1 << SEED_BITS)


def _max_tokens(call: GenerateCall, model: ServedModel, prompt_tokens: int) -> int:
    """What was asked for when it fits; what fits when nothing was asked for."""
    asked, room = call.sampling.max_tokens, model.longest - prompt_tokens
    if asked is not None and asked < (least := 0 if call.tells_prompt else 1):
        raise InvalidValue.between("max_tokens", asked, least, model.longest)
    if (1 if asked is None else asked) > room:
        raise _too_long(call, model, prompt_tokens, asked)
    if asked is not None:
        return asked
    return room if call.fill_context else min(DEFAULT_MAX_TOKENS, room)


def _too_long(
    call: GenerateCall, model: ServedModel, prompt_tokens: int, max_tokens: int | None
) -> ContextLengthExceeded:
    capacity = model.engine.capacity_tokens
    held = "" if model.architecture.context <= capacity else f", of which the cache holds {capacity}"
    asked = "no room for output" if max_tokens is None else f"max_tokens of {shown(max_tokens)}"
    message = f"{_longest(model)}{held}; a prompt of {prompt_tokens} tokens with {asked} exceeds that"
    if prompt_tokens < model.longest:
        return ContextLengthExceeded(message, param="max_tokens")
    return ContextLengthExceeded(message, param="messages" if isinstance(call.prompts[0], Conversation) else "prompt")


def _longest(model: ServedModel) -> str:
    """In OpenAI's words, by which clients know this error."""
    return f"This model's maximum context length is {model.architecture.context} tokens"


def _given(value: T | None, default: T) -> T:
    return default if value is None else value

"""From the messages of a call to what the service takes: prompts, sampling, forms of the answer."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message as ProtoMessage

from dyno.inference.v1 import inference_pb2 as pb
from server.call import Conversation, Guidance, GuidanceKind, Message, Prompt, Reading, SamplingWishes
from server.errors import MissingValue, UnsupportedField

T = TypeVar("T")


def prompt_of(request: pb.GenerateRequest | pb.ScoreRequest) -> Prompt:
    match request.WhichOneof("input"):
        case "prompt":
            return request.prompt
        case "token_ids":
            return tuple(request.token_ids.ids)
        case "conversation":
            return Conversation(tuple(Message(m.role, m.content) for m in request.conversation.messages))
        case _:
            raise MissingValue("one of prompt, token_ids and conversation is needed", param="prompt")


def names_of(request: pb.GenerateRequest | pb.ScoreRequest) -> dict[str, str]:
    """What this caller calls fields of the domain, where that is not their usual name."""
    return {"prompt": "token_ids"} if request.HasField("token_ids") else {}


def reading_of(request: pb.GenerateRequest | pb.ScoreRequest | pb.TokenizeRequest) -> Reading:
    if isinstance(request, pb.GenerateRequest | pb.ScoreRequest) and request.HasField("conversation"):
        for name in ("add_special_tokens", "split_special_tokens"):
            if any(field.name == name for field, _ in request.ListFields()):
                raise UnsupportedField(f"{name} is of a text; a chat template decides for a conversation", param=name)
    framed = request.add_special_tokens or not request.HasField("add_special_tokens")
    return Reading(framed=framed, markup=not request.split_special_tokens)


def sampling_of(wishes: pb.SamplingParameters) -> SamplingWishes:
    return SamplingWishes(
        max_tokens=optional(wishes, "max_tokens", wishes.max_tokens),
        min_tokens=optional(wishes, "min_tokens", wishes.min_tokens),
        temperature=optional(wishes, "temperature", wishes.temperature),
        top_k=optional(wishes, "top_k", wishes.top_k),
        top_p=optional(wishes, "top_p", wishes.top_p),
        min_p=optional(wishes, "min_p", wishes.min_p),
        presence_penalty=optional(wishes, "presence_penalty", wishes.presence_penalty),
        frequency_penalty=optional(wishes, "frequency_penalty", wishes.frequency_penalty),
        repetition_penalty=optional(wishes, "repetition_penalty", wishes.repetition_penalty),
        logit_bias=tuple(wishes.logit_bias.items()),
        seed=optional(wishes, "seed", wishes.seed),
        stop=tuple(wishes.stop),
        stop_token_ids=tuple(wishes.stop_token_ids),
        ignore_eos=wishes.ignore_eos,
        allowed_token_ids=tuple(wishes.allowed_token_ids) or None,
        include_stop=wishes.include_stop_str_in_output,
    )


def guidance_of(request: pb.GenerateRequest) -> Guidance | None:
    if not request.HasField("guidance"):
        return None
    guidance, form = request.guidance, request.guidance.WhichOneof("form")
    if form is None:
        raise MissingValue("guidance must say which form the answer is to have", param="guidance")
    param, kind = f"guidance.{form}", GuidanceKind(form)
    if kind is GuidanceKind.JSON_OBJECT:
        return Guidance(kind, param)
    if kind is GuidanceKind.CHOICE:
        return Guidance(kind, param, choices=tuple(guidance.choice.texts))
    return Guidance(kind, param, getattr(guidance, form))


def optional(message: ProtoMessage, name: str, value: T) -> T | None:
    return value if message.HasField(name) else None

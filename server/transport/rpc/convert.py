"""Between the messages of the proto and the values of the service."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import orjson

from dyno.inference.v1 import inference_pb2 as pb
from server.call import (
    FactWishes,
    GenerateCall,
    Piece,
    PromptTokens,
    RoutingDetail,
    SamplingWishes,
    WholeChoice,
)
from server.engine.request import TokenLogprobs
from server.errors import InvalidValue
from server.models import ModelCard
from server.transport.rpc.asking import guidance_of, optional, prompt_of, reading_of, sampling_of
from server.transport.rpc.facts import finished_message

DETAILS = {
    pb.ROUTING_DETAIL_UNSPECIFIED: RoutingDetail.LAYERS,
    pb.ROUTING_DETAIL_NONE: RoutingDetail.NONE,
    pb.ROUTING_DETAIL_SUMMARY: RoutingDetail.SUMMARY,
    pb.ROUTING_DETAIL_LAYERS: RoutingDetail.LAYERS,
    pb.ROUTING_DETAIL_TOKENS: RoutingDetail.TOKENS,
}
PROMPT_TOKENS = 2048
"""Of a prompt in one message of a stream: with their alternatives some 700 KB, where a client takes 4 MiB."""


# ---------------------------------------------------------------------------------------------- requests


def generate_call(request: pb.GenerateRequest) -> GenerateCall:
    """Raises InvalidRequest for what the domain cannot express."""
    return GenerateCall(
        model=model_name(request.model),
        prompts=(prompt_of(request),),
        reading=reading_of(request),
        sampling=sampling_of(request.sampling),
        n=optional(request, "n", request.n),
        logprobs=optional(request, "logprobs", request.logprobs),
        prompt_logprobs=optional(request, "prompt_logprobs", request.prompt_logprobs),
        guidance=guidance_of(request),
        priority=request.priority,
        facts=_facts(request),
        user=request.user or None,
    )


def score_call(request: pb.ScoreRequest) -> GenerateCall:
    """Raises InvalidRequest for what the domain cannot express."""
    return GenerateCall(
        model=model_name(request.model),
        prompts=(prompt_of(request),),
        reading=reading_of(request),
        sampling=SamplingWishes(max_tokens=0),
        prompt_logprobs=request.prompt_logprobs,
        priority=request.priority,
        user=request.user or None,
    )


def _facts(request: pb.GenerateRequest) -> FactWishes:
    """Everything, unless it is declined."""
    options = request.dyno
    for param, detail in (("routing", request.routing), ("dyno.routing", options.routing)):
        if detail not in DETAILS:
            raise InvalidValue(f"{param} has no value {detail}", param=param)
    return FactWishes(
        routing=DETAILS[options.routing or request.routing],
        latency=options.latency or not options.HasField("latency"),
        compute=options.compute or not options.HasField("compute"),
        routing_start=options.routing_start,
    )


def model_name(name: str) -> str | None:
    """proto3 cannot tell an empty name from none."""
    return name or None


# ---------------------------------------------------------------------------------------------- answers


def parts(piece: Piece) -> Iterable[Piece]:
    """The piece, after others that have most of its prompt, where that is too long for one message."""
    prompt = piece.prompt
    if prompt is None or len(prompt.tokens) <= PROMPT_TOKENS:
        return (piece,)
    cuts = range(0, len(prompt.tokens), PROMPT_TOKENS)
    *first, last = (prompt.part(start, start + PROMPT_TOKENS) for start in cuts)
    return *(Piece(piece.index, "", (), (), prompt=part) for part in first), replace(piece, prompt=last)


def stream_response(id: str, piece: Piece, wishes: FactWishes) -> pb.StreamGenerateResponse:
    message = pb.StreamGenerateResponse()
    fill_response(message, id, piece, wishes)
    return message


def fill_response(message: pb.StreamGenerateResponse, id: str, piece: Piece, wishes: FactWishes) -> None:
    """Done for every token of every stream: what is not there costs nothing."""
    message.id, message.index, message.text = id, piece.index, piece.text
    for token, logprob in zip(piece.tokens, piece.logprobs, strict=True):
        if logprob is None:
            message.tokens.add(id=token)
        else:
            message.tokens.append(_token(token, logprob))
    if piece.prompt is not None:
        message.prompt.extend(_prompt_tokens(piece.prompt))
    if piece.finished is not None:
        message.finished.CopyFrom(finished_message(piece.finished, wishes))


def generate_response(id: str, model: str, choices: Sequence[WholeChoice], wishes: FactWishes) -> pb.GenerateResponse:
    return pb.GenerateResponse(id=id, model=model, choices=[_choice(choice, wishes) for choice in choices])


def _choice(choice: WholeChoice, wishes: FactWishes) -> pb.Choice:
    return pb.Choice(
        index=choice.index,
        text=choice.text,
        tokens=_tokens(choice.tokens, choice.logprobs),
        prompt=_prompt_tokens(choice.prompt),
        finished=finished_message(choice.finished, wishes),
    )


def score_response(id: str, model: str, scored: WholeChoice, wishes: FactWishes) -> pb.ScoreResponse:
    tokens = _prompt_tokens(scored.prompt)
    return pb.ScoreResponse(
        id=id,
        model=model,
        tokens=tokens,
        logprob=math.fsum(token.logprob for token in tokens),
        finished=finished_message(scored.finished, wishes),
    )


def _prompt_tokens(prompt: PromptTokens | None) -> list[pb.Token]:
    if prompt is None:
        return []
    return _tokens(prompt.tokens, prompt.logprobs or (None,) * len(prompt.tokens))


def _tokens(tokens: Sequence[int], logprobs: Sequence[TokenLogprobs | None]) -> list[pb.Token]:
    return [_token(token, logprob) for token, logprob in zip(tokens, logprobs, strict=True)]


def _token(token: int, logprob: TokenLogprobs | None) -> pb.Token:
    if logprob is None:
        return pb.Token(id=token)
    top = [pb.Alternative(id=other, logprob=value) for other, value in logprob.top]
    return pb.Token(id=token, logprob=logprob.chosen, top=top, rank=logprob.rank)


def model_message(card: ModelCard) -> pb.Model:
    return pb.Model(
        id=card.id,
        context=card.context,
        vocab=card.vocab,
        total_parameters=card.total_parameters,
        active_parameters=card.active_parameters,
        cache_bytes_per_token=card.cache_bytes_per_token,
        state_bytes=card.state_bytes,
        chat=card.chat,
        attention=card.attention,
        position=card.position,
        feed_forward=card.feed_forward,
        architecture_json=orjson.dumps(card.architecture).decode(),
        dtype=card.dtype,
        weights=card.weights,
        card_json=orjson.dumps(card.card).decode(),
    )

"""Between the messages of the proto and the values of the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import orjson
from google.protobuf.message import Message as ProtoMessage

from dyno.inference.v1 import inference_pb2 as pb
from server.call import (
    Conversation,
    Finished,
    GenerateCall,
    Message,
    PackedRoutes,
    Piece,
    Prompt,
    RoutingDetail,
    SamplingWishes,
    WholeChoice,
)
from server.engine.request import Outcome
from server.engine.stats import LayerRouting, RequestStats
from server.engine.step import TokenLogprobs
from server.errors import InvalidValue, MissingValue
from server.models import ModelCard

T = TypeVar("T")

DETAILS = {
    pb.ROUTING_DETAIL_UNSPECIFIED: RoutingDetail.LAYERS,
    pb.ROUTING_DETAIL_NONE: RoutingDetail.NONE,
    pb.ROUTING_DETAIL_LAYERS: RoutingDetail.LAYERS,
    pb.ROUTING_DETAIL_TOKENS: RoutingDetail.TOKENS,
}
REASONS = {Outcome.STOP: pb.FINISH_REASON_STOP, Outcome.LENGTH: pb.FINISH_REASON_LENGTH}


# ---------------------------------------------------------------------------------------------- requests


def generate_call(request: pb.GenerateRequest, arrived: float, seconds: float | None) -> GenerateCall:
    """`seconds`: how long the caller waits. Raises InvalidRequest for what the domain cannot express."""
    if request.routing not in DETAILS:
        raise InvalidValue(f"routing has no value {request.routing}", param="routing")
    return GenerateCall(
        model=model_name(request.model),
        prompts=(_prompt(request),),
        sampling=_sampling(request.sampling),
        n=_optional(request, "n", request.n),
        logprobs=_optional(request, "logprobs", request.logprobs),
        routing=DETAILS[request.routing],
        user=request.user or None,
        arrived=arrived,
        seconds=seconds,
    )


def model_name(name: str) -> str | None:
    """proto3 cannot tell an empty name from none."""
    return name or None


def _prompt(request: pb.GenerateRequest) -> Prompt:
    match request.WhichOneof("input"):
        case "prompt":
            return request.prompt
        case "token_ids":
            return tuple(request.token_ids.ids)
        case "conversation":
            return Conversation(tuple(Message(m.role, m.content) for m in request.conversation.messages))
        case _:
            raise MissingValue("one of prompt, token_ids and conversation is needed", param="prompt")


def _sampling(wishes: pb.SamplingParameters) -> SamplingWishes:
    return SamplingWishes(
        max_tokens=_optional(wishes, "max_tokens", wishes.max_tokens),
        min_tokens=_optional(wishes, "min_tokens", wishes.min_tokens),
        temperature=_optional(wishes, "temperature", wishes.temperature),
        top_k=_optional(wishes, "top_k", wishes.top_k),
        top_p=_optional(wishes, "top_p", wishes.top_p),
        min_p=_optional(wishes, "min_p", wishes.min_p),
        presence_penalty=_optional(wishes, "presence_penalty", wishes.presence_penalty),
        frequency_penalty=_optional(wishes, "frequency_penalty", wishes.frequency_penalty),
        repetition_penalty=_optional(wishes, "repetition_penalty", wishes.repetition_penalty),
        logit_bias=tuple(wishes.logit_bias.items()),
        seed=_optional(wishes, "seed", wishes.seed),
        stop=tuple(wishes.stop),
        stop_token_ids=tuple(wishes.stop_token_ids),
        ignore_eos=wishes.ignore_eos,
    )


def _optional(message: ProtoMessage, name: str, value: T) -> T | None:
    return value if message.HasField(name) else None


# ---------------------------------------------------------------------------------------------- answers


def stream_response(id: str, piece: Piece, detail: RoutingDetail) -> pb.StreamGenerateResponse:
    return pb.StreamGenerateResponse(
        id=id,
        index=piece.index,
        text=piece.text,
        tokens=_tokens(piece.tokens, piece.logprobs),
        finished=None if piece.finished is None else _finished(piece.finished, detail),
    )


def generate_response(
    id: str, model: str, choices: Sequence[WholeChoice], detail: RoutingDetail
) -> pb.GenerateResponse:
    return pb.GenerateResponse(id=id, model=model, choices=[_choice(choice, detail) for choice in choices])


def _choice(choice: WholeChoice, detail: RoutingDetail) -> pb.Choice:
    return pb.Choice(
        index=choice.index,
        text=choice.text,
        tokens=_tokens(choice.tokens, choice.logprobs),
        finished=_finished(choice.finished, detail),
    )


def _tokens(tokens: Sequence[int], logprobs: Sequence[TokenLogprobs | None]) -> list[pb.Token]:
    return [_token(token, logprob) for token, logprob in zip(tokens, logprobs, strict=True)]


def _token(token: int, logprob: TokenLogprobs | None) -> pb.Token:
    if logprob is None:
        return pb.Token(id=token)
    top = [pb.Alternative(id=other, logprob=value) for other, value in logprob.top]
    return pb.Token(id=token, logprob=logprob.chosen, top=top)


def _finished(finished: Finished, detail: RoutingDetail) -> pb.Finished:
    stats = finished.stats
    return pb.Finished(
        reason=REASONS[finished.outcome],
        usage=pb.Usage(
            prompt_tokens=stats.prompt_tokens,
            completion_tokens=stats.completion_tokens,
            cached_tokens=stats.cached_tokens,
        ),
        latency=_latency(stats),
        cache=pb.Cache(
            cached_tokens=stats.cached_tokens,
            recomputed_tokens=stats.recomputed_tokens,
            preemptions=stats.preemptions,
            peak_bytes=stats.cache_bytes,
        ),
        routing=_routing(finished, detail),
        steps=pb.Steps(
            count=stats.steps,
            mean_batch=stats.mean_batch,
            drafted_tokens=stats.drafted_tokens,
            accepted_tokens=stats.accepted_tokens,
        ),
    )


def _latency(stats: RequestStats) -> pb.Latency:
    latency, gaps = stats.latency, stats.latency.inter_token
    spread = pb.Spread(count=gaps.count, mean=gaps.mean, p50=gaps.p50, p90=gaps.p90, p99=gaps.p99, maximum=gaps.maximum)
    return pb.Latency(
        queued=latency.queued,
        prefill=latency.prefill,
        first_token=latency.first_token,
        decode=latency.decode,
        inter_token=spread,
        total=latency.total,
    )


def _routing(finished: Finished, detail: RoutingDetail) -> pb.Routing | None:
    stats = finished.stats
    if detail is RoutingDetail.NONE or not stats.routing:
        return None
    tokens = None
    if detail is RoutingDetail.TOKENS and finished.routes is not None:
        packed = PackedRoutes.of(finished.routes)
        tokens = pb.TokenRouting(
            expert_ids=packed.expert_ids, tokens=packed.tokens, layers=packed.layers, top_k=packed.top_k
        )
    layers = [_layer(layer) for layer in stats.routing]
    return pb.Routing(tokens=stats.routed_tokens, layers=layers, token_routing=tokens)


def _layer(layer: LayerRouting) -> pb.LayerRouting:
    return pb.LayerRouting(
        layer=layer.layer,
        expert_tokens=layer.tokens,
        dropped=layer.dropped,
        entropy=layer.entropy,
        imbalance=layer.imbalance,
        busiest_share=layer.busiest_share,
        mean_gate=layer.mean_gate,
    )


def model_message(card: ModelCard) -> pb.Model:
    return pb.Model(
        id=card.id,
        context=card.context,
        vocab=card.vocab,
        total_parameters=card.total_parameters,
        active_parameters=card.active_parameters,
        cache_bytes_per_token=card.cache_bytes_per_token,
        chat=card.chat,
        attention=card.attention,
        position=card.position,
        feed_forward=card.feed_forward,
        architecture_json=orjson.dumps(card.architecture).decode(),
        dtype=card.dtype,
        card_json=orjson.dumps(card.card).decode(),
    )

"""Between the messages of the proto and the values of the service."""

from __future__ import annotations

import math
from collections.abc import Sequence

import orjson

from dyno.inference.v1 import inference_pb2 as pb
from server.call import (
    Finished,
    GenerateCall,
    PackedRoutes,
    Piece,
    PromptTokens,
    RoutingDetail,
    SamplingWishes,
    WholeChoice,
)
from server.engine.request import Outcome
from server.engine.stats import LayerRouting, RequestStats
from server.engine.step import TokenLogprobs
from server.errors import InvalidValue
from server.models import ModelCard
from server.transport.rpc.asking import guidance_of, optional, prompt_of, sampling_of

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
        prompts=(prompt_of(request),),
        sampling=sampling_of(request.sampling),
        n=optional(request, "n", request.n),
        logprobs=optional(request, "logprobs", request.logprobs),
        prompt_logprobs=optional(request, "prompt_logprobs", request.prompt_logprobs),
        guidance=guidance_of(request),
        priority=request.priority,
        routing=DETAILS[request.routing],
        user=request.user or None,
        arrived=arrived,
        seconds=seconds,
    )


def score_call(request: pb.ScoreRequest, arrived: float, seconds: float | None) -> GenerateCall:
    return GenerateCall(
        model=model_name(request.model),
        prompts=(prompt_of(request),),
        sampling=SamplingWishes(max_tokens=0),
        prompt_logprobs=request.prompt_logprobs,
        priority=request.priority,
        routing=RoutingDetail.LAYERS,
        user=request.user or None,
        arrived=arrived,
        seconds=seconds,
    )


def model_name(name: str) -> str | None:
    """proto3 cannot tell an empty name from none."""
    return name or None


# ---------------------------------------------------------------------------------------------- answers


def stream_response(id: str, piece: Piece, detail: RoutingDetail) -> pb.StreamGenerateResponse:
    return pb.StreamGenerateResponse(
        id=id,
        index=piece.index,
        text=piece.text,
        tokens=_tokens(piece.tokens, piece.logprobs),
        prompt=_prompt_tokens(piece.prompt),
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
        prompt=_prompt_tokens(choice.prompt),
        finished=_finished(choice.finished, detail),
    )


def score_response(id: str, model: str, scored: WholeChoice, detail: RoutingDetail) -> pb.ScoreResponse:
    tokens = _prompt_tokens(scored.prompt)
    return pb.ScoreResponse(
        id=id,
        model=model,
        tokens=tokens,
        logprob=math.fsum(token.logprob for token in tokens),
        finished=_finished(scored.finished, detail),
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

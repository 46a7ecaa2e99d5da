"""The facts of a choice as messages: why and how it ended, and the accounts that the caller asked for."""

from __future__ import annotations

from dataclasses import asdict, fields

from dyno.inference.v1 import inference_pb2 as pb
from model.operations import Operations
from server.call import FactWishes, Finished, PackedRoutes, RoutingDetail
from server.engine.request import Outcome
from server.engine.routes import summarise
from server.engine.stats import Compute, Latency, LayerRouting, RequestStats

REASONS = {Outcome.STOP: pb.FINISH_REASON_STOP, Outcome.LENGTH: pb.FINISH_REASON_LENGTH}
PARTS = tuple(field.name for field in fields(Operations))


def finished_message(finished: Finished, wishes: FactWishes) -> pb.Finished:
    stats = finished.stats
    return pb.Finished(
        reason=REASONS[finished.outcome],
        usage=pb.Usage(
            prompt_tokens=stats.prompt_tokens,
            completion_tokens=stats.completion_tokens,
            cached_tokens=stats.cached_tokens,
        ),
        latency=_latency(stats.latency) if wishes.latency else None,
        cache=pb.Cache(
            cached_tokens=stats.cached_tokens,
            recomputed_tokens=stats.recomputed_tokens,
            preemptions=stats.preemptions,
            peak_bytes=stats.cache_bytes,
            byte_seconds=stats.cache_byte_seconds,
        ),
        routing=_routing(finished, wishes.routing),
        steps=_steps(stats) if wishes.latency else None,
        compute=_compute(stats.compute) if wishes.compute else None,
    )


def _latency(latency: Latency) -> pb.Latency:
    gaps = latency.inter_token
    spread = pb.Spread(count=gaps.count, mean=gaps.mean, p50=gaps.p50, p90=gaps.p90, p99=gaps.p99, maximum=gaps.maximum)
    return pb.Latency(
        queued=latency.queued,
        prefill=latency.prefill,
        first_token=latency.first_token,
        decode=latency.decode,
        inter_token=spread,
        total=latency.total,
        forward=latency.forward,
        delayed=latency.delayed,
        preempted=latency.preempted,
    )


def _steps(stats: RequestStats) -> pb.Steps:
    return pb.Steps(
        count=stats.steps,
        mean_batch=stats.mean_batch,
        drafted_tokens=stats.drafted_tokens,
        accepted_tokens=stats.accepted_tokens,
    )


def _compute(compute: Compute) -> pb.Compute:
    operations = compute.operations
    return pb.Compute(
        flops=pb.Flops(**{part: getattr(operations, part) for part in PARTS}, total=operations.total),
        weight_bytes=compute.weight_bytes,
        cache_read_bytes=compute.cache_read_bytes,
        cache_written_bytes=compute.cache_written_bytes,
        tokens=compute.tokens,
        passes=compute.passes,
        seconds=compute.seconds,
        parameters=compute.parameters,
        memory_bound_seconds=compute.memory_bound_seconds,
        compute_bound_seconds=compute.compute_bound_seconds,
    )


def _routing(finished: Finished, detail: RoutingDetail) -> pb.Routing | None:
    stats = finished.stats
    if detail is RoutingDetail.NONE or not stats.routing:
        return None
    return pb.Routing(
        tokens=stats.routed_tokens,
        layers=[] if detail is RoutingDetail.SUMMARY else [_layer(layer) for layer in stats.routing],
        token_routing=None if finished.routes is None else _tokens(finished.routes),
        summary=pb.RoutingSummary(**asdict(summarise(stats.routing))),
    )


def _layer(layer: LayerRouting) -> pb.LayerRouting:
    return pb.LayerRouting(
        layer=layer.layer,
        expert_tokens=layer.tokens,
        dropped=layer.dropped,
        entropy=layer.entropy,
        imbalance=layer.imbalance,
        busiest_share=layer.busiest_share,
        mean_gate=layer.mean_gate,
        margin=layer.margin,
    )


def _tokens(routes: PackedRoutes) -> pb.TokenRouting:
    return pb.TokenRouting(
        expert_ids=routes.expert_ids,
        tokens=routes.tokens,
        layers=routes.layers,
        top_k=routes.top_k,
        gates=routes.gates,
        start=routes.start,
        truncated=routes.truncated,
    )

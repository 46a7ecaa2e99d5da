"""The facts of a choice as messages: why and how it ended, and the accounts that the caller asked for."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dyno.inference.v1 import inference_pb2 as pb
from server.call import FactWishes, Finished, RoutingDetail
from server.engine.request import Outcome
from server.engine.routes import summarise
from server.engine.stats import Compute, Latency, RequestStats

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

REASONS = {Outcome.STOP: pb.FINISH_REASON_STOP, Outcome.LENGTH: pb.FINISH_REASON_LENGTH}


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
    told = _fields(latency)
    return pb.Latency(inter_token=pb.Spread(**_fields(told.pop("inter_token"))), **told)


def _steps(stats: RequestStats) -> pb.Steps:
    return pb.Steps(
        count=stats.steps,
        mean_batch=stats.mean_batch,
        drafted_tokens=stats.drafted_tokens,
        accepted_tokens=stats.accepted_tokens,
    )


def _compute(compute: Compute) -> pb.Compute:
    told = _fields(compute)
    operations = told.pop("operations")
    return pb.Compute(flops=pb.Flops(**_fields(operations), total=operations.total), **told)


def _routing(finished: Finished, detail: RoutingDetail) -> pb.Routing | None:
    stats = finished.stats
    if detail is RoutingDetail.NONE or not stats.routing:
        return None
    return pb.Routing(
        tokens=stats.routed_tokens,
        layers=[]
        if detail is RoutingDetail.SUMMARY
        else [pb.LayerRouting(**_fields(layer)) for layer in stats.routing],
        token_routing=None if finished.routes is None else pb.TokenRouting(**_fields(finished.routes)),
        summary=pb.RoutingSummary(**_fields(summarise(stats.routing))),
    )


def _fields(value: DataclassInstance) -> dict[str, Any]:
    """By name, as they are: `asdict` would copy the count of every expert, one by one."""
    return {field.name: getattr(value, field.name) for field in fields(value)}

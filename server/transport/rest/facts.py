"""The facts of a request as JSON-ready data: usage, and the `dyno` extension that mirrors the proto's Finished."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from server.call import Finished, PackedRoutes, RoutingDetail
from server.engine.stats import LayerRouting, RequestStats


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int | None) -> dict[str, Any]:
    """OpenAI's usage object; cached tokens are only known at the end."""
    data: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if cached_tokens is not None:
        data["prompt_tokens_details"] = {"cached_tokens": cached_tokens}
    return data


def facts(index: int, finished: Finished, detail: RoutingDetail) -> dict[str, Any]:
    """FACTS of one choice; seconds and bytes."""
    stats = finished.stats
    return {
        "index": index,
        "finish_reason": finished.outcome,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
            "cached_tokens": stats.cached_tokens,
        },
        "latency": asdict(stats.latency),
        "cache": {
            "cached_tokens": stats.cached_tokens,
            "recomputed_tokens": stats.recomputed_tokens,
            "preemptions": stats.preemptions,
            "peak_bytes": stats.cache_bytes,
        },
        "steps": {
            "count": stats.steps,
            "mean_batch": stats.mean_batch,
            "drafted_tokens": stats.drafted_tokens,
            "accepted_tokens": stats.accepted_tokens,
        },
        "routing": None if detail is RoutingDetail.NONE else _routing(stats, finished, detail),
    }


def _routing(stats: RequestStats, finished: Finished, detail: RoutingDetail) -> dict[str, Any] | None:
    if not stats.routing:
        return None
    data = {"tokens": stats.routed_tokens, "layers": _layers(stats.routing)}
    if detail is RoutingDetail.TOKENS and finished.routes is not None:
        packed = PackedRoutes.of(finished.routes)
        data["token_routing"] = {**asdict(packed), "expert_ids": b64encode(packed.expert_ids).decode()}
    return data


def _layers(routing: Sequence[LayerRouting]) -> list[dict[str, Any]]:
    return [
        {
            "layer": layer.layer,
            "expert_tokens": layer.tokens,
            "dropped": layer.dropped,
            "entropy": layer.entropy,
            "imbalance": layer.imbalance,
            "busiest_share": layer.busiest_share,
            "mean_gate": layer.mean_gate,
        }
        for layer in routing
    ]

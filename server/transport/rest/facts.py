"""The facts of a request as orjson takes them: usage, and the `dyno` extension that mirrors the proto's Finished."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import asdict
from typing import Any

from server.call import FactWishes, Finished, RoutingDetail
from server.engine.routes import summarise
from server.engine.stats import Compute, RequestStats


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


def facts(index: int, finished: Finished, wishes: FactWishes) -> dict[str, Any]:
    """FACTS of one choice; seconds and bytes. What was not asked for is null."""
    stats = finished.stats
    return {
        "index": index,
        "finish_reason": finished.outcome,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
            "cached_tokens": stats.cached_tokens,
        },
        "latency": stats.latency if wishes.latency else None,
        "cache": {
            "cached_tokens": stats.cached_tokens,
            "recomputed_tokens": stats.recomputed_tokens,
            "preemptions": stats.preemptions,
            "peak_bytes": stats.cache_bytes,
            "byte_seconds": stats.cache_byte_seconds,
        },
        "steps": _steps(stats) if wishes.latency else None,
        "compute": _compute(stats.compute) if wishes.compute else None,
        "routing": None if wishes.routing is RoutingDetail.NONE else _routing(stats, finished, wishes.routing),
    }


def _steps(stats: RequestStats) -> dict[str, Any]:
    return {
        "count": stats.steps,
        "mean_batch": stats.mean_batch,
        "drafted_tokens": stats.drafted_tokens,
        "accepted_tokens": stats.accepted_tokens,
    }


def _compute(compute: Compute) -> dict[str, Any]:
    data = asdict(compute)
    return {"flops": {**data.pop("operations"), "total": compute.operations.total}, **data}


def _routing(stats: RequestStats, finished: Finished, detail: RoutingDetail) -> dict[str, Any] | None:
    if not stats.routing:
        return None
    layers = () if detail is RoutingDetail.SUMMARY else stats.routing
    data = {"tokens": stats.routed_tokens, "summary": summarise(stats.routing), "layers": layers}
    packed = finished.routes
    if packed is not None:
        ids, gates = b64encode(packed.expert_ids).decode(), b64encode(packed.gates).decode()
        data["token_routing"] = {**asdict(packed), "expert_ids": ids, "gates": gates}
    return data

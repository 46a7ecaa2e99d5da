"""What the fake server tells of every request, and of its models."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

ROUTING: dict[str, Any] = {
    "layer": 1,
    "expert_tokens": [3, 1, 0, 0],
    "dropped": 0,
    "entropy": 0.4,
    "imbalance": 3.0,
    "busiest_share": 0.75,
    "mean_gate": 0.6,
    "margin": 0.25,
}
SUMMARY: dict[str, Any] = {
    "layers": 1,
    "dropped": 0,
    "touched_experts": 2,
    "experts": 4,
    "entropy": 0.4,
    "lowest_entropy": 0.4,
    "imbalance": 3.0,
    "highest_imbalance": 3.0,
    "busiest_share": 0.75,
    "mean_gate": 0.6,
    "margin": 0.25,
}
SPREAD: dict[str, Any] = {"count": 3, "mean": 0.01, "p50": 0.01, "p90": 0.01, "p99": 0.01, "maximum": 0.01}
LATENCY: dict[str, Any] = {
    "queued": 0.001,
    "prefill": 0.002,
    "first_token": 0.003,
    "decode": 0.03,
    "inter_token": SPREAD,
    "total": 0.033,
    "forward": 0.028,
    "delayed": 0.004,
    "preempted": 0.0,
}
CACHE = {"cached_tokens": 2, "recomputed_tokens": 0, "preemptions": 0, "peak_bytes": 4096, "byte_seconds": 0.5}
FLOPS = {"projections": 600, "scores": 100, "feed_forward": 0, "experts": 200, "router": 20, "head": 80, "total": 1000}
COMPUTE: dict[str, Any] = {
    "flops": FLOPS,
    "weight_bytes": 3_000_000.5,
    "cache_read_bytes": 2048,
    "cache_written_bytes": 512,
    "tokens": 7,
    "passes": 2.5,
    "seconds": 0.0125,
    "parameters": 900_000,
    "memory_bound_seconds": 0.0075,
    "compute_bound_seconds": 0.0025,
}
BUSY = {"entropy": 0.459, "imbalance": 2.667, "busiest_share": 0.667, "distinct_experts": 1.5, "margin": 0.125}
LAYER: dict[str, Any] = {"layer": 3, "expert_tokens": [8, 4, 0, 0], **BUSY}
COUNTS = {"seconds": 0.5, "passes": 4, "tokens": 6, "running": 2, "waiting": 1}
LOAD: dict[str, Any] = {"model": "fake", **COUNTS, "layers": [LAYER]}
STEPS: dict[str, Any] = {"count": 5, "mean_batch": 1.5, "drafted_tokens": 4, "accepted_tokens": 3}
CARD: dict[str, Any] = {
    "context": 256,
    "vocab": 64,
    "total_parameters": 2_000_000,
    "active_parameters": 1_000_000,
    "cache_bytes_per_token": 512,
    "chat": True,
    "attention": "grouped-query",
    "position": "rotary",
    "feed_forward": "2 of 4 experts",
    "dtype": "float32",
}

# How other servers refuse a field that they do not know.
UNKNOWN_FIELD = {
    "OpenAI": b'{"error": {"message": "Unrecognized request argument supplied: dyno", "param": null, "code": null}}',
    "FastAPI": b'{"detail": [{"type": "extra_forbidden", "loc": ["body", "dyno"], "msg": "not permitted"}]}',
}


def facts(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The FACTS object of an answer."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "cached_tokens": 2}
    routing = {"tokens": 2, "summary": SUMMARY, "layers": [ROUTING]}
    told = {
        "index": 0,
        "finish_reason": "length",
        "usage": usage,
        "latency": LATENCY,
        "cache": CACHE,
        "steps": STEPS,
        "routing": routing,
        "compute": COMPUTE,
    }
    return deepcopy(told)  # tests change what they are told

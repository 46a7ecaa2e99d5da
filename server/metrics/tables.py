"""The series of each model that are read as they stand: their names, their texts, and where each is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

from server.buckets import Buckets
from server.metrics.watched import Watched
from server.tally import EngineTally
from server.windows import Closed

T = TypeVar("T")

Rows: TypeAlias = tuple[tuple[str, str, Callable[[EngineTally], T]], ...]

HISTOGRAMS: Rows[Buckets] = (
    ("dyno_time_to_first_token_seconds", "Arrival to first token.", lambda t: t.first_token),
    ("dyno_inter_token_seconds", "Every gap between successive tokens.", lambda t: t.inter_token),
    ("dyno_request_token_seconds", "Mean gap of a request, of those with two tokens.", lambda t: t.token_time),
    ("dyno_e2e_request_seconds", "Arrival to end, however it ended.", lambda t: t.whole),
    ("dyno_queue_seconds", "Arrival to first scheduled.", lambda t: t.queue),
    ("dyno_prefill_seconds", "First scheduled to first token.", lambda t: t.prefill_time),
    ("dyno_decode_seconds", "First token to last.", lambda t: t.decode_time),
    ("dyno_step_seconds", "One step, whole.", lambda t: t.step_time),
    ("dyno_step_forward_seconds", "The model's part of a step.", lambda t: t.forward_time),
    ("dyno_step_overhead_seconds", "The rest of a step.", lambda t: t.overhead),
    ("dyno_batch_tokens", "Tokens of a step.", lambda t: t.step_tokens),
    ("dyno_batch_rows", "Requests of a step.", lambda t: t.step_rows),
    ("dyno_request_routing_entropy", "Entropy of a request's expert load, mean of its layers.", lambda t: t.entropy),
    ("dyno_request_routing_imbalance", "Busiest expert over mean, mean of a request's layers.", lambda t: t.imbalance),
    ("dyno_request_busiest_share", "Busiest expert's share, mean of a request's layers.", lambda t: t.busiest),
    ("dyno_request_gate_margin", "Gate margin of a request's tokens, mean of its layers.", lambda t: t.margin),
)
COUNTERS: Rows[float] = (
    ("dyno_prompt_tokens", "Tokens of the prompts of requests that ended.", lambda t: t.prompt),
    ("dyno_cached_tokens", "Prompt tokens found in the prefix cache.", lambda t: t.cached),
    ("dyno_generated_tokens", "Tokens drawn.", lambda t: t.generated),
    ("dyno_recomputed_tokens", "Tokens computed again after a preemption.", lambda t: t.recomputed),
    ("dyno_drafted_tokens", "Tokens guessed and computed to be confirmed.", lambda t: t.drafted),
    ("dyno_accepted_tokens", "Guessed tokens that were right and so took no step of their own.", lambda t: t.accepted),
    ("dyno_forward_passes", "Forward passes through the model.", lambda t: t.passes),
    ("dyno_preemptions", "Times a request lost its blocks.", lambda t: t.preemptions),
)
GAUGES: Rows[float] = (
    ("dyno_requests_running", "Requests that have a place in the batch.", lambda t: t.running),
    ("dyno_requests_waiting", "Requests that wait for one.", lambda t: t.waiting),
)
LABELLED: tuple[tuple[str, str, str, Callable[[EngineTally], Mapping[str, float]]], ...] = (
    (
        "dyno_computed_tokens",
        "Tokens through the model.",
        "phase",
        lambda t: {"prefill": t.prefill, "decode": t.decode},
    ),
    ("dyno_step_phase_seconds", "Seconds of steps, whole.", "phase", lambda t: t.stepping),
    ("dyno_forward_seconds", "Seconds inside the model.", "phase", lambda t: t.forward),
    ("dyno_forward_least_seconds", "The same steps at what this machine can do at best.", "phase", lambda t: t.least),
    ("dyno_forward_bound_seconds", "The same, by what a pass waits for at best.", "bound", lambda t: t.bound),
    ("dyno_flops", "Floating-point operations by part.", "part", lambda t: t.flops),
    (
        "dyno_moved_bytes",
        "Weights and cache read, cache written.",
        "kind",
        lambda t: {"weights_read": t.weight_bytes, "cache_read": t.cache_read, "cache_written": t.cache_written},
    ),
    ("dyno_stall_seconds", "Time of requests that ended in which nothing of theirs ran.", "cause", lambda t: t.stalls),
)
CONSTANTS: tuple[tuple[str, str, Callable[[Watched], float | None]], ...] = (
    ("dyno_model_cache_bytes_per_token", "Cache of one token.", lambda w: w.card.cache_bytes_per_token),
    ("dyno_model_state_bytes", "What recurrent mixers carry of a request.", lambda w: w.card.state_bytes),
    ("dyno_model_context_tokens", "Longest prompt plus output.", lambda w: w.card.context),
    ("dyno_machine_read_bytes_per_second", "Best, over its size.", lambda w: w.roofs.bandwidth if w.roofs else None),
    ("dyno_machine_matrix_flops_per_second", "Best, in its type.", lambda w: w.roofs.flops if w.roofs else None),
)
WINDOWS: tuple[tuple[str, str, Callable[[Closed], Buckets]], ...] = (
    ("dyno_routing_entropy", "Entropy of expert load, 0 one expert, 1 even; of windows.", lambda c: c.entropy),
    ("dyno_routing_imbalance", "Busiest expert over mean; of windows.", lambda c: c.imbalance),
    ("dyno_routing_busiest_share", "Busiest expert's share of choices; of windows.", lambda c: c.busiest_share),
    ("dyno_routing_gate_margin", "Lead of the last chosen expert over the next; of windows.", lambda c: c.gate_margin),
)

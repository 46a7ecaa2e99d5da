"""The three dashboards: which panels they have, what these ask, and what a reader should know of each."""

from __future__ import annotations

from typing import Any

from build import WINDOW, Dashboard, Panel, quantiles, rate

MODELS = "label_values(dyno_model_info, model)"
STACKED: dict[str, Any] = {
    "fieldConfig": {"defaults": {"custom": {"fillOpacity": 40, "stacking": {"mode": "normal"}}}},
}
ONE = 'model="$model"'
SHADES = {"mode": "continuous-BlYlRd"}


def compared(title: str, description: str, queries: Any, unit: str = "short", **more: Any) -> tuple[Panel, Panel]:
    """The same panel for both architectures; `queries` gives them for the labels that choose a model."""
    left, right = (
        Panel(f"{title}: ${side}", description, queries(f'model="${side}"'), unit, **more) for side in ("left", "right")
    )
    return left, right


def architecture(where: str) -> tuple[tuple[str, str], ...]:
    return (
        (f'max(dyno_model_parameters{{{where}, kind="total"}})', "parameters"),
        (f'max(dyno_model_parameters{{{where}, kind="active"}})', "active of a token"),
        (f"max(dyno_model_cache_bytes_per_token{{{where}}})", "cache bytes of a token"),
        (f"max(dyno_model_state_bytes{{{where}}})", "state bytes of a request"),
    )


def reach(where: str) -> tuple[tuple[str, str], ...]:
    least = rate("dyno_forward_least_seconds_total", where, "phase")
    return ((f"{least} / {rate('dyno_forward_seconds_total', where, 'phase')}", "{{phase}}"),)


def step(where: str) -> tuple[tuple[str, str], ...]:
    steps = rate("dyno_step_seconds_count", where)
    inside = f"{rate('dyno_step_forward_seconds_sum', where)} / {steps}"
    outside = f"{rate('dyno_step_overhead_seconds_sum', where)} / {steps}"
    return ((inside, "inside the model"), (outside, "outside"))


COMPARE = Dashboard(
    "compare",
    "Compare architectures",
    "Two models side by side: choose them above. Equal load and equal limits make it a comparison.",
    (("left", "left", MODELS, "tales-dense"), ("right", "right", MODELS, "tales-moe")),
    (
        *compared(
            "Architecture",
            "What one token costs: all parameters, those that one token passes, and what the cache keeps of it.",
            architecture,
            kind="stat",
        ),
        *compared(
            "Throughput",
            "Tokens a second: drawn, and computed of prompts. Prompts found in the prefix cache are not computed.",
            lambda w: (
                (rate("dyno_generated_tokens_total", w), "generated"),
                (rate("dyno_computed_tokens_total", f'{w}, phase="prefill"'), "prompt computed"),
                (rate("dyno_cached_tokens_total", w), "prompt cached"),
            ),
        ),
        *compared(
            "Time to first token",
            "From arrival, the wait in the queue included, to the first token.",
            lambda w: quantiles("dyno_time_to_first_token_seconds", w),
            "s",
        ),
        *compared(
            "Inter-token time",
            "Every gap between two tokens of a request. p99 above p50 by far means that prompts get in between.",
            lambda w: quantiles("dyno_inter_token_seconds", w),
            "s",
        ),
        *compared(
            "Seconds lost, by cause",
            "Request-seconds a second that went into waiting: for a place, for cache blocks, for neighbours' prompts, "
            "after a preemption, and outside the model.",
            lambda w: ((rate("dyno_stall_seconds_total", w, "cause"), "{{cause}}"),),
            more=STACKED,
        ),
        *compared(
            "Cache",
            "Share of the blocks that requests hold, and that keep a prefix for later. The fullest group counts.",
            lambda w: (
                (f"max(dyno_cache_blocks_used{{{w}}} / dyno_cache_blocks_capacity{{{w}}})", "used"),
                (f"max(dyno_cache_blocks_cached{{{w}}} / dyno_cache_blocks_capacity{{{w}}})", "kept prefixes"),
            ),
            "percentunit",
        ),
        *compared(
            "Floating-point operations",
            "Operations a second by part of the model, from closed formulas and what was really computed.",
            lambda w: ((rate("dyno_flops_total", w, "part"), "{{part}}"),),
            more=STACKED,
        ),
        *compared(
            "Bytes moved",
            "Weights and cache read, cache written, a second. Of the experts only those that a pass touched.",
            lambda w: ((rate("dyno_moved_bytes_total", w, "kind"), "{{kind}}"),),
            "Bps",
        ),
        *compared(
            "Share of the roofline",
            "The least time that the steps could have taken on this machine, over the time they took inside the model.",
            reach,
            "percentunit",
        ),
        *compared(
            "A step",
            "Mean seconds of a step inside the model and outside: scheduling, drawing up the batch, accounts.",
            step,
            "s",
        ),
        *compared(
            "Batch",
            "Mean requests and tokens of a step. What batching gains is more tokens for the same read of the weights.",
            lambda w: (
                (f"{rate('dyno_batch_rows_sum', w)} / {rate('dyno_batch_rows_count', w)}", "rows"),
                (f"{rate('dyno_batch_tokens_sum', w)} / {rate('dyno_batch_tokens_count', w)}", "tokens"),
            ),
        ),
    ),
)

HEAT: dict[str, Any] = {
    "fieldConfig": {
        "defaults": {
            "decimals": 1,
            "color": SHADES,
            "custom": {"cellOptions": {"type": "color-background", "mode": "basic"}, "align": "center"},
        },
    },
    "transformations": [
        {
            "id": "groupingToMatrix",
            "options": {"columnField": "expert", "rowField": "layer", "valueField": "Value", "emptyValue": "zero"},
        }
    ],
}
OVER_TIME: dict[str, Any] = {"options": {"calculate": False, "color": {"mode": "scheme", "scheme": "YlOrRd"}}}


def per_window(metric: str) -> tuple[tuple[str, str], ...]:
    """Mean over windows of routed tokens, by band of layers and phase."""
    where, by = ONE, "band, phase"
    return ((f"{rate(f'{metric}_sum', where, by)} / {rate(f'{metric}_count', where, by)}", "{{band}}, {{phase}}"),)


ROUTING = Dashboard(
    "routing",
    "Routing",
    "Where the tokens of a mixture of experts go, and whether its routers still spread them.",
    (
        ("model", "model", "label_values(dyno_layer_expert_tokens_total, model)", "tales-moe"),
        ("layer", "layer", 'label_values(dyno_layer_expert_tokens_total{model="$model"}, layer)', "0"),
    ),
    (
        Panel(
            "Share of each expert in each layer",
            "A row is a layer, a column an expert: its share of the layer's choices over five minutes. "
            "An even row has one colour; a cell that stands out is a hot expert.",
            (('model_layer_expert:dyno_expert_tokens:share5m{model="$model"}', ""),),
            "percentunit",
            "table",
            24,
            HEAT,
        ),
        Panel(
            "Experts of layer $layer over time",
            "Tokens a second of every expert of one layer.",
            ((rate("dyno_expert_tokens_total", 'model="$model", layer="$layer"', "expert"), "{{expert}}"),),
            kind="heatmap",
            more=OVER_TIME,
        ),
        Panel(
            "Hot experts",
            "The ten with the largest share of their layer's choices.",
            (('topk(10, model_layer_expert:dyno_expert_tokens:share5m{model="$model"})', "{{layer}}/{{expert}}"),),
            "percentunit",
        ),
        Panel(
            "Entropy of each layer",
            "0: one expert does everything. 1: all do the same. Over five minutes.",
            (('model_layer:dyno_expert_tokens:entropy5m{model="$model"}', "layer {{layer}}"),),
        ),
        Panel(
            "Imbalance of each layer",
            "The busiest expert's load over the mean. On several devices the busiest one is waited for.",
            (('model_layer:dyno_expert_tokens:imbalance5m{model="$model"}', "layer {{layer}}"),),
        ),
        Panel(
            "Experts that a pass reads",
            "Distinct experts of a layer that one forward pass touches. Their weights are what it has to read.",
            (
                (
                    f"{rate('dyno_distinct_experts_total', ONE, 'layer')} / on () group_left () "
                    f"{rate('dyno_forward_passes_total', ONE)}",
                    "layer {{layer}}",
                ),
            ),
        ),
        Panel(
            "Gate margin by layers and phase",
            "How far the last chosen expert was ahead of the next one: near 0 the choice hangs on noise.",
            per_window("dyno_routing_gate_margin"),
        ),
        Panel(
            "Entropy by layers and phase",
            "Mean over windows of routed tokens. There for models with any number of experts.",
            per_window("dyno_routing_entropy"),
        ),
        Panel(
            "Busiest share by layers and phase",
            "The busiest expert's share of a window's choices.",
            per_window("dyno_routing_busiest_share"),
            "percentunit",
        ),
        Panel(
            "Entropy of single requests",
            "A request uses fewer experts than all requests together: that is what specialisation looks like.",
            quantiles("dyno_request_routing_entropy", ONE),
        ),
        Panel(
            "Imbalance of single requests",
            "Busiest over mean within one request, mean of its layers.",
            quantiles("dyno_request_routing_imbalance", ONE),
        ),
    ),
)

ALL = 'model=~"$model"'
ASKED = 'method!~"/metrics|/livez|/readyz|/health|/ready"'

SERVICE = Dashboard(
    "service",
    "Service",
    "Golden signals: traffic, errors, latency, saturation. Dots are requests: the request log has their ids.",
    (("model", "model", MODELS, "tales-dense"),),
    (
        Panel(
            "Requests by outcome",
            "Ends a second. stop and length are answers; rejected is the caller's mistake, cancelled its leaving; "
            "shed (no room) never ran; error is the server's, also where it left first.",
            ((rate("dyno_requests_total", ALL, "outcome"), "{{outcome}}"),),
            "reqps",
            more=STACKED,
        ),
        Panel(
            "Failed requests",
            "Share that ended by a fault or a deadline, or was shed. The line of the objective is at 0.5 %.",
            (('model:dyno_requests_failed:ratio_rate5m{model=~"$model"}', "{{model}}"), ("vector(0.005)", "objective")),
            "percentunit",
        ),
        Panel(
            "First tokens over a second",
            "Share of first tokens that took longer. The line of the objective is at 5 %.",
            (
                ('model:dyno_first_tokens_late:ratio_rate5m{model=~"$model"}', "{{model}}"),
                ("vector(0.05)", "objective"),
            ),
            "percentunit",
        ),
        Panel(
            "Time of requests",
            "From arrival to the end, however it ended.",
            quantiles("dyno_e2e_request_seconds", ALL),
            "s",
        ),
        Panel(
            "Waiting and running",
            "Requests in the batch, in the queue, and what those in the queue wait for.",
            (
                (f"sum(dyno_requests_running{{{ALL}}})", "running"),
                (f"sum by (reason) (dyno_requests_waiting_for{{{ALL}}})", "waiting for {{reason}}"),
            ),
        ),
        Panel("Queue", "Arrival to first scheduled.", quantiles("dyno_queue_seconds", ALL), "s"),
        Panel(
            "Time per token of a request",
            "Mean of a request, first token to last. Inter-token time counts every gap, this every request once.",
            quantiles("dyno_request_token_seconds", ALL),
            "s",
        ),
        Panel(
            "Cache and preemptions",
            "Share of blocks in use, and requests a second that lose theirs and are computed again.",
            (
                (f"max(dyno_cache_blocks_used{{{ALL}}} / dyno_cache_blocks_capacity{{{ALL}}})", "blocks used"),
                (rate("dyno_preemptions_total", ALL), "preemptions a second"),
            ),
        ),
        Panel(
            "Answers by code",
            "Both transports, as their callers saw it, without scrapes and probes. 499 and CANCELLED hung up.",
            (
                (
                    f"sum by (transport, code) (rate(dyno_transport_requests_total{{{ASKED}}}[{WINDOW}]))",
                    "{{transport}} {{code}}",
                ),
            ),
            "reqps",
        ),
        Panel(
            "Open calls",
            "Calls that are being answered, streams among them.",
            (("sum by (transport) (dyno_transport_open_calls)", "{{transport}}"),),
        ),
        Panel(
            "Bytes on the wire",
            "Bodies of REST and messages of gRPC, without heads and TLS.",
            (
                (
                    f"sum by (transport, direction) (rate(dyno_transport_bytes_total[{WINDOW}]))",
                    "{{transport}} {{direction}}",
                ),
            ),
            "Bps",
        ),
        Panel(
            "Phase",
            "1 for the phase of each server. Draining, it finishes what it has: see open calls. "
            "Down, its engine does not run.",
            (("max by (instance, phase) (dyno_phase)", "{{instance}} {{phase}}"),),
        ),
        Panel(
            "Processor",
            "Cores in use by each server.",
            ((f'rate(process_cpu_seconds_total{{job="dyno"}}[{WINDOW}])', "{{instance}}"),),
        ),
        Panel(
            "Memory",
            "Resident memory of each server: weights, cache and all else.",
            (('process_resident_memory_bytes{job="dyno"}', "{{instance}}"),),
            "bytes",
        ),
        Panel(
            "Servers that are scraped",
            "0 is one that does not answer.",
            (('up{job="dyno"}', "{{instance}}"),),
        ),
        Panel(
            "Lost telemetry",
            "Log lines, spans and observations a second that were lost: what is told here is that much less than all.",
            ((f"sum by (instance, what) (rate(dyno_lost_total[{WINDOW}]))", "{{instance}} {{what}}"),),
        ),
    ),
)

DASHBOARDS = (COMPARE, ROUTING, SERVICE)

"""The account of one choice, for the document: the twins of `Finished` in the proto."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Account(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ChoiceUsage(Account):
    """Token counts of one choice."""

    prompt_tokens: int = Field(description="Tokens of the prompt.")
    completion_tokens: int = Field(description="Tokens generated.")
    cached_tokens: int = Field(description="Prompt tokens whose cache entries were found ready.")


class Spread(Account):
    """A distribution in a few numbers; seconds."""

    count: int = Field(description="How many values.")
    mean: float = Field(description="Their mean.")
    p50: float = Field(description="Median.")
    p90: float = Field(description="90th percentile.")
    p99: float = Field(description="99th percentile.")
    maximum: float = Field(description="The largest.")


class Latency(Account):
    """Where the time went, in seconds."""

    queued: float = Field(description="Arrival to first scheduled.")
    prefill: float = Field(description="First scheduled to first token.")
    first_token: float = Field(description="Arrival to first token.")
    decode: float = Field(description="First token to last.")
    inter_token: Spread = Field(description="Gaps between successive tokens.")
    total: float = Field(description="Arrival to end.")
    forward: float = Field(description="Inside the model: the forward passes it took part in, whole.")
    delayed: float = Field(description="The part of these that neighbours' prompts took while it fed back one token.")
    preempted: float = Field(
        description="From losing its cache blocks to others until its next token; its passes apart."
    )


class Cache(Account):
    """What the cache did."""

    cached_tokens: int = Field(description="Prompt tokens found in the prefix cache.")
    recomputed_tokens: int = Field(description="Tokens computed again after a preemption.")
    preemptions: int = Field(description="How often the request lost its blocks.")
    peak_bytes: int = Field(description="Most cache memory held at once, in bytes.")
    byte_seconds: float = Field(description="Cache memory held, summed over time.")


class Steps(Account):
    """Forward passes of the choice."""

    count: int = Field(description="How many.")
    mean_batch: float = Field(description="Mean number of requests that shared them, this one included.")
    drafted_tokens: int = Field(description="Tokens that were guessed from the text.")
    accepted_tokens: int = Field(description="Those of them that were right.")


class Flops(Account):
    """Floating-point operations by part; a multiplication and an addition are two."""

    projections: int = Field(description="With attention's weights.")
    scores: int = Field(description="Of queries with keys and of attention's weights with values.")
    feed_forward: int = Field(description="Of dense feed-forwards and of shared experts.")
    experts: int = Field(description="Of routed experts.")
    router: int = Field(description="Of routers.")
    head: int = Field(description="Of the output projection.")
    total: int = Field(description="All of these.")


class Compute(Account):
    """What was computed and moved. What a forward pass does once for all its rows, each bears by its tokens."""

    flops: Flops
    weight_bytes: float = Field(description="Bytes of weights that were read for it.")
    cache_read_bytes: int = Field(description="Bytes of the cache that were read.")
    cache_written_bytes: int = Field(description="Bytes that were written to the cache.")
    tokens: int = Field(description="Tokens that went through the model, rejected draft tokens included.")
    passes: float = Field(description="Its share of forward passes.")
    seconds: float = Field(description="The same share of the seconds inside the model.")
    parameters: int = Field(description="Parameters that any of its tokens passed.")
    memory_bound_seconds: float = Field(
        description="The least that its seconds could have been here, in passes that wait for memory; 0: not measured."
    )
    compute_bound_seconds: float = Field(description="The same in passes that wait for operations.")


class RoutingSummary(Account):
    """All layers together; means are over layers."""

    layers: int = Field(description="Layers with experts.")
    dropped: int = Field(description="Choices lost to capacity, of all layers.")
    touched_experts: int = Field(description="Experts that any token went to, of all layers.")
    experts: int = Field(description="Experts there are, of all layers.")
    entropy: float = Field(description="Mean entropy.")
    lowest_entropy: float = Field(description="The lowest entropy of a layer.")
    imbalance: float = Field(description="Mean imbalance.")
    highest_imbalance: float = Field(description="The highest imbalance of a layer.")
    busiest_share: float = Field(description="Mean share of the busiest expert.")
    mean_gate: float = Field(description="Mean weight of a token's first choice.")
    margin: float = Field(description="Mean gate margin.")


class LayerRouting(Account):
    """One layer's routing."""

    layer: int = Field(description="Index of the block.")
    expert_tokens: list[int] = Field(description="Tokens each expert processed.")
    dropped: int = Field(description="Choices lost to an expert's capacity.")
    entropy: float = Field(description="Entropy of the load over the experts, 0 (one expert) to 1 (even).")
    imbalance: float = Field(description="Load of the busiest expert over the mean load.")
    busiest_share: float = Field(description="Part of all choices that went to the busiest expert.")
    mean_gate: float = Field(description="Mean weight of a token's first choice.")
    margin: float = Field(description="How far the last chosen expert was ahead of the best that was not, mean.")


class TokenRouting(Account):
    """Expert ids and gates of every token, packed: row-major (tokens, layers with experts, top_k)."""

    expert_ids: str = Field(description="Little-endian int16 in base64; -32768 pads, ~id was dropped.")
    gates: str = Field(description="Little-endian float16 in base64: the weight of each choice.")
    start: int = Field(description="Position of the first token.")
    tokens: int = Field(description="Number of tokens.")
    layers: int = Field(description="Number of layers with experts.")
    top_k: int = Field(description="Largest top-k of the layers.")
    truncated: bool = Field(description="Whether tokens after the last one were left out, because there are too many.")


class Routing(Account):
    """Which experts the tokens went to."""

    tokens: int = Field(description="Tokens routed: the prompt and every output but the last.")
    summary: RoutingSummary
    layers: list[LayerRouting] = Field(description="One entry for each layer with experts; none with `summary`.")
    token_routing: TokenRouting | None = Field(None, description="Only with `tokens`.")


class Facts(Account):
    """The measurements of one choice. docs/telemetry.md defines every field."""

    index: int = Field(description="Which choice.")
    finish_reason: Literal["stop", "length"] = Field(description="Why it ended.")
    usage: ChoiceUsage
    latency: Latency | None = Field(description="null when declined.")
    cache: Cache
    steps: Steps | None = Field(description="null when latency was declined.")
    compute: Compute | None = Field(description="null when declined.")
    routing: Routing | None = Field(description="null when declined, and for a model without experts.")


class LayerLoad(Account):
    """One layer's load."""

    layer: int = Field(description="Index of the block.")
    expert_tokens: list[int] = Field(description="Tokens each expert processed.")
    entropy: float | None = Field(
        description="Entropy of the load over the experts, 0 (one expert) to 1 (even); null without tokens."
    )
    imbalance: float | None = Field(description="Load of the busiest expert over the mean load; null without tokens.")
    busiest_share: float | None = Field(
        description="Part of the load that the busiest expert had; null without tokens."
    )
    distinct_experts: float | None = Field(
        description="Experts that a forward pass touched, mean of the passes; null without any."
    )
    margin: float | None = Field(description="Gate margin, mean of the tokens; null without any.")


class RoutingLoad(Account):
    """How a model's tokens spread over its experts since the event before."""

    model: str = Field(description="The model.")
    seconds: float = Field(description="The time this stands for.")
    passes: int = Field(description="Forward passes.")
    tokens: int = Field(description="Tokens computed.")
    running: int = Field(description="Requests that have a place in the batch now.")
    waiting: int = Field(description="Requests that wait for one now.")
    layers: list[LayerLoad] = Field(description="One entry for each layer with experts.")

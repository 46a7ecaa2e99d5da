"""What callers may ask, send and wait for, in one frozen value. Both transports and the validator read the same object;
bounds that only one module knows stand there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are bytes, times seconds, the rest counts."""

    # what arrives
    body_bytes: int = 1 << 20
    body_chunks: int = 4096
    body_seconds: float = 30.0
    request_line_bytes: int = 8 << 10
    head_bytes: int = 16 << 10
    head_count: int = 64
    head_seconds: float = 10.0
    metadata_bytes: int = 8 << 10
    connections: int = 1024
    streams_per_connection: int = 100
    requests_per_call: int = 256  # in flight, of a call that carries many
    actions_per_message: int = 1024  # of such a call; the smallest has four bytes
    call_seconds: float = 300.0  # in which such a call takes new ones
    watchers: int = 16  # of live routing, all models together
    watch_seconds: tuple[float, float] = (0.1, 60.0)  # from one load to the next
    json_depth: int = 32
    json_keys: int = 512  # more than logit_bias may have entries

    # what is asked
    prompts: int = 64
    messages: int = 256
    content_chars: int = 512 << 10
    choices: int = 4
    logprobs: int = 20
    logit_bias: int = 300
    stop: int = 16
    stop_chars: int = 64
    stop_ids: int = 64
    user_chars: int = 64
    allowed_ids: int = 4096
    priority: int = 100
    guidance_chars: int = 64 << 10
    guidance_choices: int = 1024
    routing_bytes: int = 2 << 20  # of the experts of single tokens, all choices of an answer together
    temperature: float = 2.0
    penalty: float = 2.0
    bias: float = 100.0
    repetition: tuple[float, float] = (0.01, 2.0)

    # how long and how many
    queue: int = 256
    queue_seconds: float = 30.0
    request_seconds: float = 600.0
    guidance_seconds: float = 1.0
    guidance_step_seconds: tuple[float, float] = (
        0.005,
        2.0,
    )  # free for each token of a form; beyond it, for a call
    stalled_write_seconds: float = 30.0
    unsent_events: int = 256  # of one stream; they are small, a token each and its alternatives
    retry_after_seconds: int = 1  # what one who is refused for now is told

"""What the numbers are called, and what is said of their differences. No name has a comma: names stand in lists."""

from __future__ import annotations

from enum import StrEnum

METRIC_NAMES = {
    "first_token": "time to first token",
    "inter_token": "inter-token time",
    "per_token": "time per output token",
    "total": "time end to end",
    # Of whole rounds.
    "first_token_p95": "the 95th percentile of the time to first token",
    "inter_token_p99": "the 99th percentile of the inter-token time",
    "total_p95": "the 95th percentile of the time end to end",
    "throughput": "time per generated token over all requests",
}
PART_NAMES = {
    "queue": "in the queue",
    "prefill": "prefill in shared passes",
    "decode": "decode in shared passes",
    "others": "decode held up by prompts or preemption",
    "outside": "outside the server",
}
SHORT_NAMES = {
    "first_token": "first token",
    "inter_token": "inter-token",
    "per_token": "per token",
    "total": "end to end",
    "first_token_p95": "first token p95",
    "inter_token_p99": "inter-token p99",
    "total_p95": "end to end p95",
    "throughput": "per token overall",
}


class Verdict(StrEnum):
    """What is said of a difference, in these very words: of times, or of bits per byte."""

    FASTER = "faster"
    SLOWER = "slower"
    SEEMS_FASTER = "seems faster"
    SEEMS_SLOWER = "seems slower"
    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"
    NONE = "no verdict: requests failed"

    @property
    def leans(self) -> bool:
        """Whether it is for one of the two, of too few rounds to be sure."""
        return self in (Verdict.SEEMS_FASTER, Verdict.SEEMS_SLOWER)

    @property
    def sure(self) -> bool:
        """Whether it is for one of the two, and no leaning."""
        return not self.leans and self not in (Verdict.NOT_SHOWN, Verdict.NONE)


def after_correction(p: float | None) -> str:
    """What is said where an interval for itself shows a difference, and correction leaves none: "no difference shown
    (p 0.19 after correction)"; without p where a test has no say yet."""
    return f"{Verdict.NOT_SHOWN} ({'' if p is None else f'p {p:.3g} '}after correction)"

"""What the numbers are called."""

METRIC_NAMES = {
    "first_token": "time to first token",
    "inter_token": "inter-token time",
    "per_token": "time per output token",
    "total": "time end to end",
}
SHORT_NAMES = {
    "first_token": "first token",
    "inter_token": "inter-token",
    "per_token": "per token",
    "total": "end to end",
    # Of whole rounds, for the gate.
    "first_token_p95": "first token, p95",
    "total_p95": "end to end, p95",
    "throughput": "time a generated token, all requests together",
}

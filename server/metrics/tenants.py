"""What each tenant asked for and got: by the names of API keys, which the operator wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric

MOST_TENANTS = 1000  # names that were ever seen; keys come and go
OTHERS = "(others)"  # no name of a key


class TenantTally:
    """Written by one thread; a reader may look at any time."""

    def __init__(self, most: int = MOST_TENANTS) -> None:
        self.requests = Counter[tuple[str, str]]()  # (tenant, outcome)
        self.tokens = Counter[tuple[str, str]]()  # (tenant, kind)
        self._names: set[str] = set()
        self._most = most

    def ended(self, tenant: str, outcome: str, count: int = 1, prompt: int = 0, generated: int = 0) -> None:
        """So many requests of this tenant ended so. Who came without a key is nobody here."""
        if not tenant:
            return
        if tenant not in self._names and len(self._names) >= self._most:
            tenant = OTHERS
        self._names.add(tenant)
        self.requests[tenant, outcome] += count
        self.tokens[tenant, "prompt"] += prompt
        self.tokens[tenant, "generated"] += generated


def of_tenants(tallies: Sequence[TenantTally]) -> Iterator[Metric]:
    """The sum of what several threads counted; nothing where nobody has a key."""
    requests, tokens = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for tally in tallies:
        requests.update(dict(list(tally.requests.items())))  # others go on counting meanwhile
        tokens.update(dict(list(tally.tokens.items())))
    if not requests:
        return
    text = "Requests that ended, by the name of their key."
    ended = CounterMetricFamily("dyno_tenant_requests", text, labels=["tenant", "outcome"])
    for labels, count in requests.items():
        ended.add_metric(labels, count)
    text = "Tokens of requests that ended, by the name of their key."
    moved = CounterMetricFamily("dyno_tenant_tokens", text, labels=["tenant", "kind"])
    for labels, count in tokens.items():
        moved.add_metric(labels, count)
    yield from (ended, moved)

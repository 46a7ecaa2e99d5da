"""Who used the machine: by the names of their keys in metrics, log lines and spans, and by nothing else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from server.metrics.tenants import OTHERS, TenantTally, of_tenants
from tests.server.callers import Refused
from tests.server.doors import caller_as, header, until, write_keys
from tests.server.kit import Harness, fake_model, running
from tests.server.test_metrics import observed, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUSY = {"prompt": "abc", "max_tokens": 30, "ignore_eos": True}


async def counted(server: Harness) -> dict[str, dict[tuple[str, str], float]]:
    """Of each tenant metric its values by tenant and outcome or kind."""
    server.session.headers.update(header("prom"))
    found: dict[str, dict[tuple[str, str], float]] = {}
    for (name, labels), value in (await server.series()).items():
        if name.startswith("dyno_tenant_") and value:
            words = dict(labels)
            tenant = words.pop("tenant")
            found.setdefault(name, {})[tenant, *words.values()] = value  # type: ignore[index]
    return found


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_requests_and_tokens_are_counted_by_tenant_refused_ones_too(transport: str, tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    keys = write_keys(tmp_path / "keys", "alice", "bob", "prom")
    async with running(fake_model(rows=1, sleep=0.005), api_keys_file=keys, queue=2, request_log=str(log)) as server:
        async with caller_as(transport, server, "alice") as alice, caller_as(transport, server, "bob") as bob:
            [told] = await alice.whole(prompt="abc", max_tokens=5, ignore_eos=True)
            with pytest.raises(Refused):
                await alice.whole(prompt="abc", n=2, temperature=-1)
            answers = await asyncio.gather(*(bob.stream(**BUSY, n=2) for _ in range(3)), return_exceptions=True)
            shed = sum(isinstance(answer, Refused) for answer in answers)
            with pytest.raises(Refused):
                await bob.whole(prompt="abc", form={"regex": "("})
        await until(lambda: log.read_text().count("\n") == 1 + 2 * (3 - shed))
        found = await counted(server)
        assert shed >= 1 and found["dyno_tenant_requests_total"] == {
            ("alice", "length"): 1,
            ("alice", "rejected"): 2,
            ("bob", "length"): 2 * (3 - shed),
            ("bob", "shed"): 2 * shed,
            ("bob", "rejected"): 1,
        }
        prompt = told.facts["usage"]["prompt_tokens"]
        tokens = found["dyno_tenant_tokens_total"]
        assert (tokens["alice", "prompt"], tokens["alice", "generated"]) == (prompt, 5)
        assert tokens["bob", "generated"] == 60 * (3 - shed) == await server.total("dyno_generated_tokens_total") - 5
        received = await server.total("dyno_requests_received_total")
        assert sum(found["dyno_tenant_requests_total"].values()) == received
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["tenant"] for line in lines] == ["alice"] + ["bob"] * 2 * (3 - shed)


async def test_without_keys_there_are_no_tenants() -> None:
    registry, observer = observed()
    observer.finished(request())
    observer.unserved("m", "rejected", 1, "")
    assert [family.name for family in registry.collect() if "tenant" in family.name] == []


async def test_names_are_bounded_in_number() -> None:
    tally = TenantTally(most=2)
    for name in ("a", "b", "c", "d", "a"):
        tally.ended(name, "stop", 1, 3, 4)
    registry = CollectorRegistry()
    registry.register(type("Told", (), {"collect": lambda self: of_tenants([tally]), "describe": lambda self: []})())

    def value(tenant: str) -> float | None:
        return registry.get_sample_value("dyno_tenant_requests_total", {"tenant": tenant, "outcome": "stop"})

    assert [value(name) for name in ("a", "b", "c", OTHERS)] == [2, 1, None, 2]
    assert registry.get_sample_value("dyno_tenant_tokens_total", {"tenant": OTHERS, "kind": "generated"}) == 8

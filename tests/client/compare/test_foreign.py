"""A server of another engine, which has OpenAI's API and nothing more, is measured beside one of ours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client.compare.judge.findings import conclude
from client.compare.measure.bench import measure
from client.compare.plan.experiment import Architecture
from client.load.workload import WorkloadError
from tests.client.answers import CARD, UNKNOWN_FIELD
from tests.client.compare.test_bench import on
from tests.client.fake_server import FakeServer, Script

FOREIGN = Script(0.02, 0.004, models=("b",), extension=False, strict=UNKNOWN_FIELD["OpenAI"])


async def test_it_gets_the_same_requests_and_its_times_are_judged(fake: FakeServer) -> None:
    experiment = on(fake, "a")
    async with FakeServer(FOREIGN) as other:
        both = (Architecture("ours", "a", fake.http), Architecture("theirs", "b", other.http))
        found = await measure(replace(experiment, architectures=both))
    assert all(record.ok for m in found.measured for record in m.run.records)
    asked = [body for _, body in other.seen if "dyno" not in body]
    assert len(asked) == 2 + 5 * 6  # the warm-up, then the rounds
    assert max(max(body["prompt"]) for body in asked) < CARD["vocab"], "drawn, and made new, within what ours tells"
    findings = conclude(found)
    assert {one.verdict for one in findings.differences[1, 0][:3]} <= {"faster", "slower", "no difference shown"}
    assert findings.because[1, 0] is None, "it does not say where its time goes"


async def test_random_prompts_need_a_vocabulary(fake: FakeServer) -> None:
    experiment = on(fake, "a", "b")
    fake.behave(extension=False)
    with pytest.raises(WorkloadError, match=r"no endpoint says how large its vocabulary is.*dyno trace make --vocab"):
        await measure(experiment)

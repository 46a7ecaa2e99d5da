"""Endpoints that run already never see a prompt twice; servers of our own get the trace as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from client.compare.judge.findings import conclude
from client.compare.measure.bench import measure
from client.compare.measure.results import Measured, Results
from client.compare.plan.experiment import Architecture
from client.compare.tell.cautions import cautions
from client.facts import Usage
from client.load.workload import Prompts
from tests.client.compare.factories import TOLD, results
from tests.client.compare.test_bench import on
from tests.client.fake_server import FakeServer


async def test_no_prompt_comes_twice_over_runs_and_transports(fake: FakeServer) -> None:
    experiment = on(fake, "a", repeats=2)
    both = (Architecture("REST", "a", fake.http), Architecture("gRPC", "a", fake.grpc))
    experiment = replace(experiment, architectures=both)
    runs = [await measure(experiment) for _ in range(2)]
    prompts = [tuple(body["prompt"]) if kind == "rest" else tuple(body.token_ids.ids) for kind, body in fake.seen]
    assert len(prompts) == 2 * 2 * (2 + 2 * 6)
    assert len(set(prompts)) == len(prompts)
    assert {len(prompt) for prompt in prompts} == {8}
    hashes = [[m.run.trace_hash for m in run.measured] for run in runs]
    assert hashes[0] == hashes[1]  # the same trace, to be paired by
    assert len({m.run.salt for run in runs for m in run.measured}) == 4


@pytest.mark.usefixtures("fake_processes")
async def test_servers_of_our_own_get_the_trace_as_it_is(fake: FakeServer) -> None:
    own = (Architecture("one", "a"), Architecture("two", "a"))
    done = await measure(replace(on(fake, "a", repeats=1), architectures=own))
    assert {m.run.salt for m in done.measured} == {""}


def cached(*tokens: int, prompts: Prompts = Prompts.TALES) -> Results:
    """So many of eight prompt tokens were in the cache of each architecture."""
    whole = results((0.1, 0.1))
    whole.experiment = replace(whole.experiment, workload=replace(whole.experiment.workload, prompts=prompts))

    def told(m: Measured) -> Measured:
        facts = replace(TOLD, usage=Usage(8, 3, tokens[m.cell.architecture]))
        return replace(m, run=replace(m.run, records=tuple(replace(r, facts=facts) for r in m.run.records)))

    whole.measured = [told(m) for m in whole.measured]
    return whole


def test_cached_prompts_are_cautioned_about(tmp_path: Path) -> None:
    assert cautions(conclude(cached(2, 2))) == ()
    assert "arch0 0%, arch1 75%; they did not do" in cautions(conclude(cached(0, 6)))[0]
    assert "random prompts were in" in cautions(conclude(cached(2, 2, prompts=Prompts.RANDOM)))[0]
    traced = cached(2, 2, prompts=Prompts.RANDOM)
    traced.experiment = replace(traced.experiment, trace=tmp_path)
    assert cautions(conclude(traced)) == ()

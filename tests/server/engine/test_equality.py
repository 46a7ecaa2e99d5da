"""Whatever happens around a request, its answer and facts are the same: batches, chunks, preemption, prefixes found,
windows, arrivals. And nothing is lost: what went in comes out, what was routed was routed for somebody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Chunk, Full, Span, Window
from server.engine.engine import Engine
from server.engine.request import Outcome, Routes
from server.engine.step import CacheGroup, MixtureShape
from tests.fakes import Clock, FakeRunner, Recorder, continuation, expert_tokens, make_request
from tests.server.engine.conftest import Rig

MIXTURES = (MixtureShape(0, 4, 2), MixtureShape(2, 3, 1))
SPANS: dict[str, tuple[Span, ...]] = {
    "full": (Full(),),
    "full and window": (Full(), Window(5)),
    "window and chunk": (Window(5), Chunk(6)),
}


@dataclass(frozen=True)
class Arrival:
    """A request, the step before which it comes, and the step before which it leaves."""

    prompt: list[int]
    max_tokens: int
    comes: int
    leaves: int | None
    salt: bytes


arrivals = st.lists(
    st.builds(
        Arrival,
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=24),  # few tokens: prefixes meet
        max_tokens=st.integers(1, 12),
        comes=st.integers(0, 12),
        leaves=st.none() | st.integers(0, 30),
        salt=st.sampled_from([b"", b"", b"s"]),
    ),
    min_size=1,
    max_size=8,
)


def play(arrived: list[Arrival], spans: tuple[Span, ...], *, blocks: int = 200, **options: Any) -> Rig:
    """Run the requests to their ends, checking the books after every step."""
    clock, seen = Clock(), Recorder()
    groups = tuple(CacheGroup(span, blocks, 16) for span in spans)
    runner = FakeRunner(vocab=2, groups=groups, mixtures=MIXTURES, clock=clock, step_seconds=1.0)
    rig = Rig(runner, Engine("fake", runner, observer=seen, clock=clock, **options), clock, seen)
    step = 0
    while rig.engine.has_work or any(a.comes >= step for a in arrived):
        for number, a in enumerate(arrived):
            if a.comes == step:
                rig.add(make_request(a.prompt, a.max_tokens, id=str(number), arrived=clock.now, cache_salt=a.salt))
            if a.leaves is not None and a.leaves == step - a.comes:
                rig.engine.cancel(str(number))
        rig.step()
        step += 1
        assert step < 2000, "it does not come to an end"
    return rig


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
@settings(max_examples=60, deadline=None)
@given(
    arrived=arrivals,
    blocks=st.integers(10, 24),
    max_batch_tokens=st.integers(1, 40),
    max_rows=st.integers(1, 6),
    prefix_cache=st.booleans(),
    speculate=st.integers(0, 4),
)
def test_answers_do_not_depend_on_anything_around_them(
    spans: tuple[Span, ...],
    arrived: list[Arrival],
    blocks: int,
    max_batch_tokens: int,
    max_rows: int,
    prefix_cache: bool,
    speculate: int,
) -> None:
    rig = play(
        arrived,
        spans,
        blocks=blocks,
        max_batch_tokens=max_batch_tokens,
        max_rows=max_rows,
        prefix_cache=prefix_cache,
        speculate=speculate,
    )
    for number, a in enumerate(arrived):
        stats = rig.stats(str(number))
        whole = continuation(a.prompt, a.max_tokens, 2, spans)
        said = rig.said(str(number))
        assert said == whole[: len(said)]
        assert stats.completion_tokens == len(said)
        assert (stats.outcome is Outcome.LENGTH) == (len(said) == a.max_tokens)
        assert stats.outcome in (Outcome.LENGTH, Outcome.CANCELLED)
        _check_routing(rig, str(number), [*a.prompt, *said])
    _check_conservation(rig, len(arrived))
    assert all(use.used == 0 for use in rig.seen.steps[-1].groups)
    if not prefix_cache:
        assert all(use.cached == 0 for use in rig.seen.steps[-1].groups)


def _check_routing(rig: Rig, id: str, tokens: list[int]) -> None:
    """A request's routing speaks of each of its computed tokens once."""
    stats, routes = rig.stats(id), rig.last(id).routes
    computed = tokens[: stats.routed_tokens]
    if stats.completion_tokens:
        assert len(computed) == len(tokens) - 1
    assert [list(layer.expert_tokens) for layer in stats.routing] == expert_tokens(computed, MIXTURES)
    assert isinstance(routes, Routes) and len(routes) == len(computed)


def _check_conservation(rig: Rig, requests: int) -> None:
    steps, ended = rig.seen.steps, rig.seen.requests
    assert len(rig.seen.arrivals) == len(ended) == requests
    computed = sum(stats.routed_tokens - stats.cached_tokens + stats.recomputed_tokens for stats in ended)
    drafted, accepted = sum(step.drafted_tokens for step in steps), sum(step.accepted_tokens for step in steps)
    assert drafted == sum(stats.drafted_tokens for stats in ended) and 0 <= accepted <= drafted
    assert accepted == sum(stats.accepted_tokens for stats in ended)
    assert sum(step.num_tokens for step in rig.runner.steps) == computed + drafted - accepted
    assert sum(step.prefill_tokens + step.decode_tokens for step in steps) == computed
    assert sum(step.recomputed_tokens for step in steps) == sum(stats.recomputed_tokens for stats in ended)
    assert sum(step.preemptions for step in steps) == sum(stats.preemptions for stats in ended)
    assert sum(len(step.first_tokens) for step in steps) == sum(stats.completion_tokens > 0 for stats in ended)
    assert sum(len(step.gaps) for step in steps) == sum(stats.latency.inter_token.count for stats in ended)
    for layer, shape in enumerate(MIXTURES):
        assert sum(sum(step.expert_tokens[layer]) for step in steps) == computed * shape.active
    assert all(step.rows <= step.prefill_tokens + step.decode_tokens for step in steps)


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_requests_that_need_four_times_the_cache_all_finish(spans: tuple[Span, ...]) -> None:
    arrived = [Arrival([n % 2, n // 2 % 2, 1] * 2, 18, 0, None, b"") for n in range(32)]
    rig = play(arrived, spans, blocks=49, max_rows=32, max_batch_tokens=64, prefix_cache=False)
    for number, a in enumerate(arrived):
        assert rig.said(str(number)) == continuation(a.prompt, 18, 2, spans)
    if spans == (Full(),):
        assert sum(step.preemptions for step in rig.seen.steps) > 0
    assert all(step.rows > 0 for step in rig.seen.steps[:-1]), "no step without progress"


def test_the_head_of_the_queue_does_not_starve() -> None:
    """A large request among many small ones is served before any that came after it gets in its way."""
    small = [Arrival([1, 0], 10, n, None, b"") for n in range(40)]
    rig = play([*small[:6], Arrival([0] * 24, 4, 6, None, b""), *small[6:]], (Full(),), blocks=9, prefix_cache=False)
    order = [stats.id for stats in rig.seen.requests]
    assert order.index("6") <= 9, "it waited only for those that were running"

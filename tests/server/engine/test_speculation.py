"""Speculation changes how many steps an answer takes and nothing else: every token, log-probability, route and end is
what it is without, whatever is guessed, and what was guessed wrongly is in nobody's books."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Full, Span, Window
from server.engine.constraint import ConstraintFailed, Known, bits_of
from server.engine.drafting import MakeDrafter, PromptLookup
from server.engine.engine import Engine
from server.engine.pace import LEAST_CHUNK
from server.engine.request import Outcome, Request
from server.engine.step import CacheGroup, MixtureShape, Pick, Step
from tests.fakes import Clock, FakeRunner, Recorder, continuation, expert_tokens, make_request, next_token
from tests.server.engine.conftest import Rig

MIXTURES = (MixtureShape(0, 4, 2), MixtureShape(2, 3, 1, limited=True))
VOCAB = 3
SPANS: dict[str, tuple[Span, ...]] = {"full": (Full(),), "full and window": (Full(), Window(5))}


def knowing(spans: Sequence[Span], wrong_every: int, vocab: int = VOCAB) -> MakeDrafter:
    """A drafter that knows what the fake will say, and errs at every so manieth position."""

    class Knowing:
        def __init__(self, request: Request) -> None:
            self.request = request

        def draft(self, most: int) -> list[int]:
            tokens = [*self.request.prompt, *self.request.outputs]
            start = len(tokens)
            for position in range(start, start + most):
                tokens.append((next_token(tokens, vocab, spans) + (position % wrong_every == 0)) % vocab)
            return tokens[start:]

    return Knowing


@dataclass
class Says:
    """A stop condition that is met by the so manieth token it sees of one kind; it may also break there."""

    token: int
    times: int
    broken: bool = False
    heard: list[int] = field(default_factory=list)

    def push(self, token: int) -> bool:
        self.heard.append(token)
        met = self.heard.count(self.token) >= self.times
        if met and self.broken:
            raise KeyError("piece")
        return met


class NeverTwice(Known):
    """A constraint: no token follows itself, and so many are enough. It refuses to think about what it forbids."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.said: list[int] = []

    def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
        tokens = [*self.said, *ahead]
        if any(a == b for a, b in pairwise(tokens)):
            raise ConstraintFailed("that cannot be")
        return bits_of(set(range(VOCAB)) - set(tokens[-1:]))

    def push(self, token: int) -> bool:
        self.said.append(token)
        return len(self.said) == self.enough


@dataclass(frozen=True)
class Asked:
    """One request as the tests vary it."""

    prompt: list[int]
    max_tokens: int
    min_tokens: int
    stop_ids: frozenset[int]
    stop: tuple[int, int, bool] | None
    logprobs: int | None
    comes: int
    blank: int | None
    never_twice: int | None

    def request(self, id: str) -> Request:
        stop = None if self.stop is None else Says(*self.stop)
        least = min(self.min_tokens, self.max_tokens)
        own: dict[str, Any] = {"stop": stop, "stop_ids": self.stop_ids, "min_tokens": least, "logprobs": self.logprobs}
        constraint = None if self.never_twice is None else NeverTwice(self.never_twice)
        return make_request(self.prompt, self.max_tokens, id=id, constraint=constraint, **own)


asked = st.builds(
    Asked,
    prompt=st.lists(st.integers(0, 1), min_size=1, max_size=20),
    max_tokens=st.integers(1, 24),
    min_tokens=st.integers(0, 6),
    stop_ids=st.sampled_from([frozenset[int](), frozenset({2}), frozenset({0, 2})]),
    stop=st.none() | st.tuples(st.integers(0, 2), st.integers(1, 6), st.booleans()),
    logprobs=st.sampled_from([None, 0, 3]),
    comes=st.integers(0, 12),
    blank=st.none() | st.none() | st.integers(2, 30),
    never_twice=st.none() | st.none() | st.integers(2, 20),
)


def play(arrived: Sequence[Asked], spans: tuple[Span, ...], blocks: int, **options: Any) -> Rig:
    """Run the requests to their ends; the position `blank` of a request can never be computed."""

    def blank(pick: Pick) -> bool:
        return arrived[int(pick.request.id)].blank == pick.position

    clock, seen = Clock(), Recorder()
    groups = tuple(CacheGroup(span, blocks, 16) for span in spans)
    runner = FakeRunner(vocab=VOCAB, groups=groups, mixtures=MIXTURES, clock=clock, step_seconds=1.0, blank=blank)
    rig = Rig(runner, Engine("fake", runner, observer=seen, clock=clock, **options), clock, seen)
    step = 0
    while rig.engine.has_work or any(one.comes >= step for one in arrived):
        rig.add(*(one.request(str(number)) for number, one in enumerate(arrived) if one.comes == step))
        rig.step()
        step += 1
        assert step < 2000, "it does not come to an end"
    return rig


def told(rig: Rig, id: str) -> tuple[Any, ...]:
    """Everything about a request that speculation must leave alone."""
    stats, last = rig.stats(id), rig.last(id)
    logprobs = [logprob for delta in rig.deltas if delta.request.id == id for logprob in delta.logprobs]
    routes = None if last.routes is None else (last.routes.experts.tolist(), last.routes.gates.tolist())
    heard = last.request.stop.heard if isinstance(last.request.stop, Says) else None
    return rig.said(id), stats.outcome, last.error, logprobs, routes, stats.routing, stats.completion_tokens, heard


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
@settings(max_examples=100, deadline=None)
@given(
    arrived=st.lists(asked, min_size=1, max_size=6),
    speculate=st.integers(1, 6),
    wrong_every=st.integers(0, 5),
    blocks=st.integers(13, 24),
    prefix_cache=st.booleans(),
    max_batch_tokens=st.integers(1, 40),
    max_rows=st.integers(1, 6),
)
def test_everything_told_is_the_same(
    spans: tuple[Span, ...], arrived: list[Asked], speculate: int, wrong_every: int, blocks: int, **options: Any
) -> None:
    drafter = knowing(spans, wrong_every) if wrong_every else PromptLookup
    plain = play(arrived, spans, 200, max_rows=1, prefix_cache=False)
    quick = play(arrived, spans, blocks, speculate=speculate, drafter=drafter, **options)
    for id in map(str, range(len(arrived))):
        assert told(quick, id) == told(plain, id)
    assert all(step.drafted_tokens >= step.accepted_tokens for step in quick.seen.steps)
    assert all(step.num_tokens <= options["max_batch_tokens"] for step in quick.runner.steps)
    assert all(use.used == 0 for use in quick.seen.steps[-1].groups)
    for layer, shape in enumerate(MIXTURES):
        counted = sum(sum(step.expert_tokens[layer]) for step in quick.seen.steps)
        assert counted == shape.active * sum(s.prefill_tokens + s.decode_tokens for s in quick.seen.steps)


def speculating(rig: Callable[..., Rig], right: bool = True, **options: Any) -> Rig:
    """One whose drafts are all right, or all wrong."""
    options = {"vocab": 257, "speculate": 4, "drafter": knowing((Full(),), 10**9 if right else 1, 257)} | options
    return rig(**options)


def test_right_drafts_give_several_tokens_a_step(rig: Callable[..., Rig]) -> None:
    r = speculating(rig)
    r.add(make_request([3, 4], 11))
    r.finish()
    assert [len(delta.tokens) for delta in r.deltas] == [1, 5, 5]
    assert r.said("r") == continuation([3, 4], 11, 257)
    stats = r.stats("r")
    assert (stats.steps, stats.drafted_tokens, stats.accepted_tokens) == (3, 8, 8)
    assert list(r.rows()) == [[("r", 0, 2)], [("r", 2, 5)], [("r", 7, 5)]]


def test_no_more_is_guessed_than_may_still_be_said(rig: Callable[..., Rig]) -> None:
    """Of n outputs left one is drawn anyway, so n - 1 are worth a guess, and none when it is the last."""
    r = speculating(rig)
    r.add(make_request([3, 4], 9))
    r.finish()
    assert [[len(row.drafts) for row in step.rows] for step in r.runner.steps] == [[0], [4], [2]]


def test_wrong_drafts_count_for_nothing_but_their_time(rig: Callable[..., Rig]) -> None:
    r = speculating(rig, right=False, mixtures=MIXTURES)
    r.add(make_request([3, 4], 8))
    r.finish()
    stats = r.stats("r")
    assert r.said("r") == continuation([3, 4], 8, 257)
    assert stats.accepted_tokens == 0 < stats.drafted_tokens and stats.steps == 8
    assert sum(step.decode_tokens for step in r.seen.steps) == 7
    assert [list(layer.expert_tokens) for layer in stats.routing] == expert_tokens([3, 4, *r.said("r")[:-1]], MIXTURES)


def test_tokens_of_one_step_are_no_time_apart(rig: Callable[..., Rig]) -> None:
    r = speculating(rig, step_seconds=1.0)
    r.add(make_request([3, 4], 11))
    r.finish()
    latency = r.stats("r").latency
    assert (latency.first_token, latency.decode, latency.inter_token.count) == (1.0, 2.0, 10)
    assert [step.gaps for step in r.seen.steps] == [(), (1.0, 0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0)]


def test_what_stands_behind_the_end_was_never_said(rig: Callable[..., Rig]) -> None:
    said = continuation([3, 4], 11, 257)
    r = speculating(rig)
    r.add(make_request([3, 4], 11, stop_ids=frozenset({said[3]}), logprobs=0))
    r.finish()
    stats = r.stats("r")
    assert (r.said("r"), stats.outcome) == (said[:4], Outcome.STOP)
    assert [len(delta.logprobs) for delta in r.deltas] == [1, 3]
    assert (stats.drafted_tokens, stats.accepted_tokens) == (4, 2), "the end itself was drawn and never fed back"


def test_drafts_take_what_others_leave(rig: Callable[..., Rig]) -> None:
    r = speculating(rig, max_batch_tokens=8)
    r.add(make_request([3, 4], 20, id="a"))
    r.step()
    r.add(make_request(range(12), 3, id="b"))
    r.step(2)
    assert list(r.rows())[1:] == [[("a", 2, 1), ("b", 0, 7)], [("a", 3, 3), ("b", 7, 5)]]


def test_drafts_take_nothing_that_a_bound_keeps_from_prompts(rig: Callable[..., Rig]) -> None:
    r = speculating(rig, max_batch_tokens=256, chunk_seconds=1e-9, step_seconds=1.0)
    r.add(make_request([3, 4], 30, id="a"))
    r.step()
    r.add(make_request(range(LEAST_CHUNK + 9), 3, id="b"))
    r.step(2)
    assert list(r.rows())[1:] == [[("a", 2, 1), ("b", 0, LEAST_CHUNK)], [("a", 3, 5), ("b", LEAST_CHUNK, 9)]]
    r.add(*(make_request([n] * LEAST_CHUNK, 1, id=f"c{n}") for n in range(2)))
    r.step()
    assert list(r.rows())[3] == [("a", 8, 1), ("b", LEAST_CHUNK + 9, 1), ("c0", 0, LEAST_CHUNK)]


def test_drafts_take_no_block_that_somebody_waits_for(rig: Callable[..., Rig]) -> None:
    r = speculating(rig, groups=(CacheGroup(Full(), 5, 1),), prefix_cache=False)  # four blocks of four
    r.add(make_request([3, 4], 12, id="a"), make_request(range(14), 1, id="b"))
    r.step(2)
    assert list(r.rows()) == [[("a", 0, 2)], [("a", 2, 2)]]  # to the end of its block
    assert r.engine.num_waiting == 1
    r.engine.cancel("b")
    r.step()
    assert list(r.rows())[2] == [("a", 4, 4)]


def test_only_confirmed_tokens_become_a_prefix(rig: Callable[..., Rig]) -> None:
    """Guesses reach into the third block and are wrong; whoever comes finds the first two at most."""
    r = speculating(rig, right=False, prefix_cache=True)
    r.add(make_request([3, 4, 5, 6, 7, 8], 3, id="a"))
    r.step(2)
    assert [row.count for row in r.runner.steps[1].rows] == [2], "one draft is all that may follow"
    r.finish()
    whole = [3, 4, 5, 6, 7, 8, *r.said("a")]
    r.add(make_request([*whole, 1], 2, id="b"), make_request([*whole[:7], 200, 1], 2, id="c"))
    r.finish()
    assert (r.stats("b").cached_tokens, r.stats("c").cached_tokens) == (8, 4)
    assert r.said("b") == continuation([*whole, 1], 2, 257)


def test_a_failure_behind_a_wrong_draft_is_nobodys(rig: Callable[..., Rig]) -> None:
    r = speculating(rig, right=False, blank=lambda pick: bool(pick.drafted))
    r.add(make_request([3, 4], 8))
    r.finish()
    assert (r.stats("r").outcome, r.said("r")) == (Outcome.LENGTH, continuation([3, 4], 8, 257))


def test_a_failure_behind_right_drafts_comes_after_their_tokens(rig: Callable[..., Rig]) -> None:
    r = speculating(rig, blank=lambda pick: pick.position == 4)
    r.add(make_request([3, 4], 8))
    r.finish()
    assert (r.stats("r").outcome, r.last("r").error) == (Outcome.ERROR, "blank")
    assert r.said("r") == continuation([3, 4], 3, 257)
    assert r.stats("r").accepted_tokens == 2


def test_nobody_fails_for_drafts_that_the_model_cannot_take(rig: Callable[..., Rig]) -> None:
    def fault(step: Step) -> None:
        if any(row.drafts for row in step.rows if row.request.id == "a"):
            raise RuntimeError("too much")

    r = speculating(rig, fault=fault)
    r.add(make_request([3, 4], 8, id="a"), make_request([5], 8, id="b"))
    r.finish()
    assert (r.said("a"), r.said("b")) == (continuation([3, 4], 8, 257), continuation([5], 8, 257))
    assert (r.stats("a").drafted_tokens, r.stats("a").steps) == (0, 8)
    assert r.stats("b").accepted_tokens > 0


def test_text_that_repeats_itself_takes_fewer_steps(rig: Callable[..., Rig]) -> None:
    """vocab 2: the fake falls into a loop, and looking the text up finds it."""
    runs = []
    for speculate in (0, 4):
        r = rig(vocab=2, speculate=speculate)
        r.add(make_request([0, 1, 1, 0], 100))
        r.finish()
        runs.append((r.said("r"), r.stats("r").steps))
    (slow, steps), (quick, fewer) = runs
    assert quick == slow and steps == 100 and fewer < 40


def test_rows_without_drafts_are_as_they_were(rig: Callable[..., Rig]) -> None:
    r = rig(vocab=2)
    r.add(make_request([1, 1, 1, 1], 8))
    r.finish()
    assert list(r.rows()) == [[("r", 0, 4)], *([("r", 3 + n, 1)] for n in range(1, 8))]
    assert not any(row.drafts for step in r.runner.steps for row in step.rows)
    assert not any(step.drafted_tokens for step in r.seen.steps)


@pytest.mark.parametrize("speculate", [0, 24])
def test_blocks_of_wrong_guesses_are_nobodys_when_others_need_some(rig: Callable[..., Rig], speculate: int) -> None:
    """Without guesses both fit to the end; so they do with them."""
    r = rig(
        groups=(CacheGroup(Full(), 9, 1),),  # eight blocks of four
        vocab=257,
        speculate=speculate,
        drafter=knowing((Full(),), 1, 257),
        max_batch_tokens=64,
        prefix_cache=False,
    )
    r.add(make_request(range(10, 14), 24, id="long"), make_request(range(3), 5, id="short"))
    r.finish()
    assert [r.stats(id).preemptions for id in ("short", "long")] == [0, 0]
    assert (r.stats("long").drafted_tokens > 0) == (speculate > 0)


def test_blocks_of_wrong_guesses_keep_nobody_waiting(rig: Callable[..., Rig]) -> None:
    r = rig(
        groups=(CacheGroup(Full(), 9, 1),),
        vocab=257,
        speculate=24,
        drafter=knowing((Full(),), 1, 257),
        prefix_cache=False,
    )
    r.add(make_request(range(4), 20, id="long"))
    r.step(3)
    r.add(make_request(range(10, 20), 1, id="late"))
    r.step()
    assert r.last("late").stats is not None, "three blocks are free, whatever was guessed into them"


def test_blocks_of_several_wrong_guesses_are_there_for_one_who_waits(rig: Callable[..., Rig]) -> None:
    """Two have filled a block each and hold two more with guesses; the third needs three."""
    r = rig(
        groups=(CacheGroup(Full(), 7, 1),),  # six blocks of four
        vocab=257,
        speculate=8,
        drafter=knowing((Full(),), 1, 257),
        prefix_cache=False,
    )
    r.add(make_request(range(2), 12, id="a"), make_request(range(20, 22), 12, id="b"))
    r.step(2)
    assert r.seen.steps[-1].groups[0].used == 6
    r.add(make_request(range(40, 50), 1, id="late"))
    r.step()
    assert r.last("late").stats is not None

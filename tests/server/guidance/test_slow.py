"""Forms that take long to follow: told apart, ended with words of ours, and nobody else is slowed down by them."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from server.engine.constraint import ConstraintFailed
from server.engine.engine import Engine
from server.engine.request import Outcome
from server.guidance import walk
from server.guidance.following import LONGEST_SET, TOO_SLOW, Allowance, Follower
from server.guidance.guides import Guides
from server.guidance.matcher import GrammarConstraint
from server.guidance.words import BROKEN, NOTHING_FOLLOWS, TOO_AMBIGUOUS, TOO_INTRICATE, own_words
from server.limits import Limits
from tests.fakes import FakeRunner, Recorder, continuation, make_request
from tests.server.guidance.test_guides import FORMS, Served, come, constraint, form, refusal, tales

__all__ = ["tales"]  # a fixture

AMBIGUOUS = form("grammar", 'start: e\ne: e e e e | e e e | e e | /[a-z ]/ | "" ')


@pytest_asyncio.fixture
async def guides() -> AsyncIterator[Guides]:
    made = Guides(Limits(guidance_seconds=10.0, guidance_step_seconds=(0.0, 0.05)))
    yield made
    made.close()


async def test_a_grammar_that_leaves_too_much_open_is_refused_before_it_is_used(guides: Guides, tales: Served) -> None:
    said = await refusal(guides, AMBIGUOUS, tales)
    assert said.message == f"the grammar cannot be used: {TOO_AMBIGUOUS}"


async def test_one_that_takes_long_is_refused(guides: Guides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "SECONDS", 0.0)
    assert TOO_SLOW in (await refusal(guides, FORMS["schema"])).message


async def test_beside_an_ambiguous_grammar_others_have_a_token_in_every_step(
    guides: Guides, tales: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "STEPS", 0)  # let it through
    made = await guides.constraints(AMBIGUOUS, tales, 4, endless=True)  # type: ignore[arg-type]
    vocab = tales.vocab
    engine = Engine("m", FakeRunner(vocab=vocab), observer=(seen := Recorder()))
    for n, slow in enumerate(made):
        engine.add(make_request([1, n], 60, id=f"slow {n}", constraint=slow))
    engine.add(make_request([3], 120, id="free"))
    free: list[int] = []
    while engine.has_work:
        for delta in engine.step():
            if delta.request.id == "free":
                assert len(delta.tokens) == 1
                free += delta.tokens
            elif delta.stats is not None:
                assert delta.stats.outcome is Outcome.REJECTED and delta.error in (TOO_SLOW, TOO_AMBIGUOUS)
        engine.check()
    assert free == continuation([3], 120, vocab)
    runs = [step for step in engine._runner.steps if any(row.request.id == "free" for row in step.rows)]  # type: ignore[attr-defined]
    assert len(runs) == 120, "nothing was run twice"
    assert {stats.id for stats in seen.requests if stats.outcome is Outcome.REJECTED} == {f"slow {n}" for n in range(4)}


def test_an_allowance_counts_what_is_not_free_and_ends() -> None:
    free, strict = Allowance(10.0, 0.0), Allowance(0.0, 0.0)
    assert free.measured(lambda: 7) == strict.measured(lambda: 7) == 7
    assert (free.spent, free.exceeded) == (0.0, False)
    assert strict.spent > 0.0 and strict.exceeded
    with pytest.raises(ConstraintFailed, match="too long"):
        strict.measured(lambda: 7)


async def test_a_guess_costs_an_answer_nothing(guides: Guides) -> None:
    made = await constraint(guides, form("regex", "a{100}"))  # of this one no token is free
    assert isinstance(made, GrammarConstraint)
    made.consider(b"aaaa")
    come(made)
    assert made.fitting(b"aaaa") == b"a", "it is not looked into any further"
    assert made._allowance.spent == 0.0
    made.push(ord("a"))
    come(made)
    assert made._allowance.spent > 0.0


def test_one_that_never_comes_back_is_exceeded_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    allowance, now = Allowance(1.0, 1.0), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def work() -> bool:
        now[0] = LONGEST_SET + 1
        return allowance.exceeded

    assert allowance.measured(work) and not allowance.exceeded


def test_who_has_taken_least_comes_first_and_who_left_not_at_all() -> None:
    follower, begin, order = Follower(1 << 20), threading.Event(), list[str]()
    greedy, modest = Allowance(0.0, 9.0), Allowance(0.0, 9.0)
    greedy.spent = 1.0

    def note(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    first = follower.submit(modest, begin.wait)
    jobs = [follower.submit(who, note(name)) for who, name in ((greedy, "a"), (greedy, "b"), (modest, "c"))]
    assert jobs[1].cancel()
    begin.set()
    jobs[0].result(10)
    assert first.result(10) and order == ["c", "a"]
    follower.close()


def test_what_breaks_a_job_is_told_to_who_waits_and_the_next_is_done() -> None:
    follower, allowance = Follower(1 << 20), Allowance(0.0, 9.0)

    def broken() -> None:
        raise KeyError("piece")

    with pytest.raises(KeyError):
        follower.submit(allowance, broken).result(10)
    assert follower.submit(allowance, lambda: 3).result(10) == 3
    follower.close()


def following(follower: Follower, matcher: Any) -> GrammarConstraint:
    return GrammarConstraint(matcher, b"\xff", {7}, endless=False, follower=follower, allowance=Allowance(1.0, 9.0))


class Slow:
    """A matcher of sets that come one by one, each when it may."""

    def __init__(self) -> None:
        self.begun, self.may, self.sets = threading.Event(), threading.Semaphore(0), 0

    def deep_copy(self) -> Slow:
        return self

    def try_consume_tokens(self, tokens: list[int]) -> int:
        return len(tokens)

    def consume_token(self, token: int) -> bool:
        return True

    def is_stopped(self) -> bool:
        return False

    def is_error(self) -> bool:
        return False

    def compute_bitmask(self) -> bytes:
        self.begun.set()
        assert self.may.acquire(timeout=10)
        self.sets += 1
        return b"\xff"


@pytest.mark.parametrize("over", ["said", "left"])
def test_a_guess_that_nobody_waits_for_is_looked_into_no_further(over: str) -> None:
    follower, matcher = Follower(1 << 20), Slow()
    made = following(follower, matcher)
    made.consider([3] * 32)
    looking = made.look_ahead()
    assert looking is not None and matcher.begun.wait(10)
    made.push(3) if over == "said" else made.close()
    matcher.may.release(40)
    looking.result(10)
    assert matcher.sets == 1
    if over == "said":
        come(made)
        assert matcher.sets == 2 and len(made.allowed()) == 1
    follower.close()


def test_looking_at_it_begins_nothing() -> None:
    follower, matcher = Follower(1 << 20), Slow()
    made = following(follower, matcher)
    assert not made.awaits and not made.push(3)
    assert made.awaits and made.awaits and not matcher.begun.wait(0.05)
    coming = made.look_ahead()
    assert coming is not None and matcher.begun.wait(10) and made.awaits
    matcher.may.release()
    coming.result(10)
    assert not made.awaits and made.look_ahead() is None and len(made.allowed()) == 1
    follower.close()


class Panicking:
    """A matcher that breaks down when it is asked what may come next."""

    def consume_token(self, token: int) -> bool:
        return True

    def is_stopped(self) -> bool:
        return False

    def compute_bitmask(self) -> bytes:
        raise RuntimeError("panicked at src/earley.rs")


def test_a_library_that_breaks_down_ends_the_request() -> None:
    follower = Follower(1 << 20)
    made = following(follower, Panicking())
    assert not made.push(3)
    coming = made.look_ahead()
    assert coming is not None and isinstance(coming.exception(10), RuntimeError)
    assert made.look_ahead() is None and made.failure == BROKEN, "it is not asked again and again"
    follower.close()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("NoExtensionBias\n<non-verbose/>", NOTHING_FOLLOWS),
        ("parser error: Too many items (limit 5000; mask); try avoiding single-byte/short lexemes\n<n", TOO_AMBIGUOUS),
        ("lexer error: too many lexer states", TOO_INTRICATE),
        ("lexer error: too many expressions constructed\n<non-verbose/>", TOO_INTRICATE),
        ("panic: removal index (is 0) should be < len (is 0)\n<backtrace>\n   0: <unknown>", BROKEN),
        (
            'at 1(8): unknown name: "nobody"\n   1 | start: nobody\n',
            'at 1(8): unknown name: "nobody" 1 | start: nobody',
        ),
        ("", BROKEN),
    ],
)
def test_the_library_is_told_in_our_words(said: str, words: str) -> None:
    assert own_words(said) == words


async def test_a_loop_is_refused_in_our_words(guides: Guides) -> None:
    said = await refusal(guides, form("json_schema", '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}'))
    assert said.message == f"the JSON schema cannot be used: {NOTHING_FOLLOWS}"

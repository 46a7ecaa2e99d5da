"""Real models, tiny, in float32: what is said with guesses is what is said without, drawn or greedy, whatever the
architecture, whether prefixes are found and requests preempted, and whoever guesses."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from model.config import Architecture
from model.sampling import edit
from model.transformer import Transformer
from server.engine import batch
from server.engine.drafting import MakeDrafter, PromptLookup
from server.engine.edits import edits_of
from server.engine.engine import Engine
from server.engine.request import Outcome, Request, Routes, Sampling, TokenLogprobs
from server.engine.runner import ModelRunner, Room
from server.engine.stats import RequestStats
from server.engine.step import Pick, Row, Step
from tests.fakes import Recorder
from tests.model.cases import MIXED_CASES, MIXTURE_CASES, SPAN_CASES
from tests.model.randomise import random_model, random_tokens
from tests.model.test_serving_beyond import CASES as BEYOND_CASES
from tests.server.engine.test_served_memory import tiny

SAID = 20
HOW: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 2, "repetition_penalty": 1.3},
    {"temperature": 0.9, "seed": 5, "top_k": 8, "logprobs": 0},
    {"temperature": 1.3, "seed": 6, "top_p": 0.8, "presence_penalty": 0.5, "frequency_penalty": 0.4},
    {"temperature": 0.7, "seed": 7, "min_p": 0.05, "logit_bias": ((3, 2.0), (4, -2.0))},
    {"temperature": 0.0, "min_tokens": 9, "stop_ids": frozenset(range(0, 61, 3))},
    {"temperature": 1.0, "seed": 8, "min_tokens": 4, "stop_ids": frozenset(range(0, 61, 5)), "logprobs": 1},
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Work this small is done before a second thread is awake."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Told(NamedTuple):
    """What is known of one answer when it has ended."""

    tokens: list[int]
    logprobs: list[TokenLogprobs | None]
    routes: Routes | None
    stats: RequestStats


def requests_of(vocab: int, source: bool = False) -> list[Request]:
    """One for each way of drawing; prompts that begin alike, and repeat themselves."""
    draws = np.random.default_rng(0)
    common = [*draws.integers(0, vocab, 5).tolist()] * 2
    return [
        Request(
            str(number),
            (*common, *draws.integers(0, vocab, 1 + number % 4).tolist()),
            Sampling(SAID, **how),
            arrived=0.0,
            source=tuple(draws.integers(0, vocab, 7).tolist()) if source else (),
        )
        for number, how in enumerate(HOW)
    ]


def serve(model: Transformer, source: bool = False, room: int = 400, **options: Any) -> tuple[dict[str, Told], Engine]:
    """Every request to its end, the books checked after every step."""
    runner = ModelRunner(model, Room(room, 8, 24, 4))
    engine = Engine("m", runner, observer=Recorder(), max_batch_tokens=24, max_rows=8, **options)
    for request in requests_of(61, source):
        engine.add(request)
    told: dict[str, Told] = {}
    logprobs: dict[str, list[TokenLogprobs | None]] = {}
    while engine.has_work:
        for delta in engine.step():
            logprobs.setdefault(delta.request.id, []).extend(delta.logprobs)
            if delta.stats is not None:
                id = delta.request.id
                told[id] = Told(delta.request.outputs, logprobs[id], delta.routes, delta.stats)
        engine.check()
    return told, engine


@functools.cache
def plain(architecture: Architecture) -> tuple[Transformer, dict[str, Told]]:
    model = random_model(architecture)
    return model, serve(model, prefix_cache=False)[0]


def remembering(answers: dict[str, Told], wrong_every: int) -> MakeDrafter:
    """A drafter that has heard the answers before, and errs at every so manieth token."""

    class Remembering:
        def __init__(self, request: Request) -> None:
            self.request = request

        def draft(self, most: int) -> Sequence[int]:
            said = len(self.request.outputs)
            heard = answers[self.request.id].tokens[said : said + most]
            return [(token + (at % wrong_every == 0)) % 61 for at, token in enumerate(heard, said)]

    return Remembering


def assert_same(found: dict[str, Told], expected: dict[str, Told]) -> None:
    assert found.keys() == expected.keys()
    for id, one in expected.items():
        other = found[id]
        assert other.tokens == one.tokens and other.stats.outcome == one.stats.outcome
        for a, b in zip(other.logprobs, one.logprobs, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert a.chosen == pytest.approx(b.chosen, abs=1e-4)
                assert [token for token, _ in a.top] == [token for token, _ in b.top]
        if one.routes is not None and other.routes is not None:
            assert other.routes.experts.tolist() == one.routes.experts.tolist()
            np.testing.assert_allclose(other.routes.gates, one.routes.gates, atol=1e-5)


CASES = {
    **MIXED_CASES,
    "window, chunk and full layers": SPAN_CASES["window, chunk and full layers"],
    "capacity, Switch": MIXTURE_CASES["capacity, Switch"],
    "capacity, top-2": MIXTURE_CASES["capacity, top-2"],
    **{
        name: BEYOND_CASES[name] for name in ("buckets", "sparse selection", "beside", "spare rows, a block for images")
    },
}


@pytest.mark.parametrize("wrong_every", [2, 5, 99, None], ids=lambda n: "looked up" if n is None else f"1 in {n} wrong")
@pytest.mark.parametrize("architecture", CASES.values(), ids=CASES)
def test_any_architecture(architecture: Architecture, wrong_every: int | None) -> None:
    model, expected = plain(architecture)
    drafter = remembering(expected, wrong_every) if wrong_every else PromptLookup
    found, _ = serve(model, speculate=4, drafter=drafter, prefix_cache=wrong_every != 5)
    assert_same(found, expected)
    if wrong_every:
        drafted = sum(told.stats.drafted_tokens for told in found.values())
        accepted = sum(told.stats.accepted_tokens for told in found.values())
        if architecture.recurrents:  # a state cannot be had back: nobody guesses
            assert drafted == accepted == 0
            return
        assert 0 < accepted <= drafted
        assert max(told.stats.steps for told in found.values()) < SAID if wrong_every == 99 else accepted < drafted


def test_preempted_again_and_again() -> None:
    model, expected = plain(MIXED_CASES["latent, dense then grouped experts"])
    torch.set_num_threads(2)  # tokens of one step read what others of it have just written
    found, _ = serve(model, room=96, speculate=4, drafter=remembering(expected, 4), prefix_cache=False)
    torch.set_num_threads(1)
    assert sum(told.stats.preemptions for told in found.values()) > 0
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["transformer-base", "switch-base-8"])
def test_a_model_with_an_encoder(name: str) -> None:
    model = tiny(name)
    expected, _ = serve(model, source=True)
    for drafter in (remembering(expected, 3), PromptLookup):
        found, _ = serve(model, source=True, speculate=3, drafter=drafter)
        assert_same(found, expected)


def test_a_draft_that_is_no_number_hurts_nobody() -> None:
    """A token that poisons all it touches is guessed all the time, and never said: nothing of it stays in the cache."""

    class Poisoned:
        def __init__(self, request: Request) -> None:
            self.request = request

        def draft(self, most: int) -> Sequence[int]:
            said = len(self.request.outputs)
            return [*expected[self.request.id].tokens[said : said + 1], bad, bad][:most]

    architecture = SPAN_CASES["window, chunk and full layers"]
    clean, expected = plain(architecture)
    spoken = {token for told in expected.values() for token in told.tokens}
    prompts = {token for request in requests_of(61) for token in request.prompt}
    bad = next(token for token in range(61) if token not in spoken | prompts)
    model = random_model(architecture)
    model.embedding.weight[bad] = float("nan")
    found, engine = serve(model, speculate=3, drafter=Poisoned)
    assert_same(found, expected)
    assert sum(told.stats.accepted_tokens for told in found.values()) > 0
    runner = engine._runner
    assert isinstance(runner, ModelRunner)
    for pool in (*runner.cache.keys, *runner.cache.values):
        assert pool is None or pool.isfinite().all()
    assert clean.embedding.weight.isfinite().all()


def test_penalties_and_bans_know_what_was_guessed_before() -> None:
    """Every place of a row of guesses has the edits and the draw that it has when its tokens are outputs."""
    how = Sampling(9, min_tokens=3, stop_ids=frozenset({1}), presence_penalty=0.5, repetition_penalty=1.5, seed=3)
    logits = torch.linspace(-1.0, 1.0, 9)[None]

    def changed(pick: Pick) -> list[float]:
        return edit(logits, edits_of([pick]))[0].tolist()

    guessing = Request("a", (4, 5), how, 0.0, outputs=[6])
    row = Row(guessing, 2, 4, ((1, 2),), drafts=(7, 6, 8))
    for at, pick in enumerate(row.picks):
        spoken = Request("b", (4, 5), how, 0.0, outputs=[6, 7, 6, 8][: at + 1])
        alone = Pick(spoken, spoken.num_tokens - 1)
        assert pick.position == alone.position
        assert batch.draw_of([pick]) == batch.draw_of([alone])
        assert changed(pick) == changed(alone)


def test_logits_are_computed_where_they_are_wanted() -> None:
    def request(known: int) -> Request:
        return Request(str(known), tuple(range(known)), Sampling(9), 0.0)

    rows = (
        Row(request(9), 0, 4, ()),  # in the middle of a prompt: only looked at
        Row(request(5), 2, 3, ()),
        Row(request(5), 4, 3, (), drafts=(7, 8)),
        Row(request(6), 1, 3, (), select=2),
    )
    places = [(0, 3), (1, 4), (2, 4), (2, 5), (2, 6), (3, 2), (3, 3)]
    assert batch.selected(Step(0, rows)) == places
    picks = [pick for row in rows for pick in row.picks]
    assert [(pick.position, pick.known, pick.drafted) for pick in picks] == [
        *[(4, None, ()), (4, None, ()), (5, None, (7,)), (6, None, (7, 8))],
        *[(2, 3, ()), (3, 4, ())],
    ]


def test_looking_up_saves_steps_of_a_model_that_repeats_itself() -> None:
    """Greedy, a random model falls into a loop sooner or later."""
    model = random_model(SPAN_CASES["window"])
    steps = []
    for speculate in (0, 6):
        runner = ModelRunner(model, Room(400, 1, 24, 4))
        engine = Engine("m", runner, observer=Recorder(), max_batch_tokens=24, max_rows=1, speculate=speculate)
        request = Request("r", random_tokens(SPAN_CASES["window"], 8, 1), Sampling(150, temperature=0.0), 0.0)
        engine.add(request)
        with torch.inference_mode():
            last = [delta for _ in range(200) if engine.has_work for delta in engine.step()][-1]
        assert last.stats is not None and last.stats.outcome is Outcome.LENGTH
        steps.append((request.outputs, last.stats.steps))
    (slow, many), (quick, few) = steps
    assert quick == slow and few < many / 2

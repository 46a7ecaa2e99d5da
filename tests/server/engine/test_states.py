"""Models that carry states, through the whole engine: found prefixes, preemption, faults, and what they hold."""

from __future__ import annotations

import pytest

from model.cache import Carried
from model.config import Architecture
from model.footprint import cache_bytes, state_bytes
from model.transformer import Transformer
from server.engine.engine import Engine
from server.engine.request import Outcome, Request, Sampling
from server.engine.runner import ModelRunner, Room
from server.engine.step import Step
from tests.fakes import Recorder
from tests.model.cases import MIXED_CASES, RECURRENT_CASES
from tests.model.randomise import random_model, random_tokens
from tests.server.engine.test_speculating_models import assert_same, plain, serve

HYBRID = MIXED_CASES["gated delta, gated attention, experts"]
ALONE = RECURRENT_CASES["no attention"]
EVERY = pytest.mark.parametrize("architecture", [HYBRID, ALONE], ids=["hybrid", "no attention"])


def run(engine: Engine) -> dict[str, tuple[list[int], int]]:
    """Every request to its end: its outputs, and how many tokens of its prompt were found."""
    told = {}
    while engine.has_work:
        for delta in engine.step():
            if delta.stats is not None:
                assert delta.stats.outcome is Outcome.LENGTH, delta.error
                told[delta.request.id] = (delta.request.outputs, delta.stats.cached_tokens)
        engine.check()
    return told


def engine_of(model: Transformer, room: int = 200, every: int = 1, **options: bool) -> Engine:
    runner = ModelRunner(model, Room(room, 4, 24, 4, every))
    return Engine("m", runner, observer=Recorder(), max_batch_tokens=24, max_rows=4, **options)


def request(name: str, prompt: tuple[int, ...], outputs: int = 6) -> Request:
    return Request(name, prompt, Sampling(outputs, temperature=0.0), 0.0)


@EVERY
def test_a_prefix_goes_on_from_the_state_behind_it(architecture: Architecture) -> None:
    """At any block of four: a text that shares ten tokens takes eight, one that goes on from an answer all of it."""
    model = random_model(architecture)
    prompt = random_tokens(architecture, 14, 1)
    branch = (*prompt[:10], *random_tokens(architecture, 5, 2))
    engine, fresh = engine_of(model), engine_of(model, prefix_cache=False)
    said: tuple[int, ...] = ()
    for name, text, found in (("first", prompt, 0), ("branch", branch, 8), ("again", prompt, 12), ("on", prompt, 16)):
        text = (*text, *said) if name == "on" else text
        engine.add(request(name, text))
        fresh.add(request(name, text))
        outputs, cached = run(engine)[name]
        assert cached == found and outputs == run(fresh)[name][0]
        said = tuple(outputs) if name == "first" else said


def test_of_a_long_prompt_a_state_is_kept_now_and_then() -> None:
    """At each third block of four tokens, and behind the last that a step filled; answers keep each third."""
    model = random_model(HYBRID)
    engine, fresh = engine_of(model, every=3), engine_of(model, prefix_cache=False)
    prompt = random_tokens(HYBRID, 46, 1)  # steps of 24 tokens
    for name, shared, found in (("a", 0, 0), ("b", 46, 44), ("c", 43, 36), ("d", 35, 24), ("e", 13, 12)):
        text = prompt if name == "a" else (*prompt[:shared], *random_tokens(HYBRID, 3, shared))
        for one in (engine, fresh):
            one.add(request(name, text))
        outputs, cached = run(engine)[name]
        assert (name, cached) == (name, found) and outputs == run(fresh)[name][0]


@pytest.mark.parametrize("length", [16, 17, 20, 23, 24])
def test_the_same_prompt_is_found_whatever_its_length(length: int) -> None:
    """One that ends with a block too: its last token is computed again, from the state of a block before."""
    engine = engine_of(random_model(HYBRID), every=8)
    prompt = random_tokens(HYBRID, length, 1)
    found = []
    for name in ("first", "again"):
        engine.add(request(name, prompt))
        found.append(run(engine)[name])
    assert found[0][0] == found[1][0] and found[1][1] == (length - 1) // 4 * 4


@EVERY
def test_preempted_again_and_again(architecture: Architecture) -> None:
    """Where something grows: a model of states alone holds the same to the end, and requests wait instead."""
    model, expected = plain(architecture)
    found, _ = serve(model, room=80 if architecture is HYBRID else 36)
    preempted = sum(told.stats.preemptions for told in found.values())
    assert (preempted > 0) == (architecture is HYBRID)
    assert_same(found, expected)


def test_a_fault_of_one_row_leaves_the_others_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine runs halves of a step that failed again: what the first try wrote must not count."""
    model = random_model(HYBRID)
    prompts = {str(i): random_tokens(HYBRID, 5 + i, i) for i in range(4)}
    calm = engine_of(model)
    for name, prompt in prompts.items():
        calm.add(request(name, prompt))
    expected = run(calm)
    engine = engine_of(model)
    runner = engine._runner
    assert isinstance(runner, ModelRunner)
    sample, tried = runner._sample, []

    def failing(step: Step, *rest: object) -> object:
        tried.append(len(step.rows))
        if any(row.request.id == "bad" for row in step.rows) and step.number > 2:
            raise ValueError("its constraint is broken")
        return sample(step, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "_sample", failing)
    engine.add(request("bad", random_tokens(HYBRID, 6, 9)))
    for name in ("0", "1", "2"):
        engine.add(request(name, prompts[name]))
    outputs = {}
    while engine.has_work:
        for delta in engine.step():
            if delta.stats is not None:
                outputs[delta.request.id] = delta.request.outputs, delta.stats.outcome
    assert outputs.pop("bad")[1] is Outcome.ERROR
    assert max(tried) == 4 and min(tried) == 1
    assert {name: found for name, (found, _) in outputs.items()} == {name: expected[name][0] for name in outputs}


def test_what_it_holds_does_not_grow() -> None:
    """One state and the one before it, whatever the length; attention's part grows."""
    model = random_model(ALONE)
    engine = engine_of(model)
    peaks = []
    for length in (9, 40):
        engine.add(request(str(length), random_tokens(ALONE, length, 1), 8))
        while engine.has_work:
            for delta in engine.step():
                if delta.stats is not None:
                    peaks.append(delta.stats.cache_bytes)
    one = state_bytes(ALONE)
    assert cache_bytes(ALONE, 10) == cache_bytes(ALONE, 1000) == one
    group = engine._runner.groups[0]
    assert group.span == Carried() and group.bytes_per_block == one
    assert max(peaks) <= (24 // 4 + 2) * one, "what a step computes, and the state before it"
    assert cache_bytes(HYBRID, 11) - cache_bytes(HYBRID, 10) == 2 * 2 * 10 * 2


def test_a_step_of_a_prompt_holds_a_few_states() -> None:
    """That before it, that of each eighth block, and of its last two; not one for each of its six blocks."""
    engine = engine_of(random_model(HYBRID), every=8)
    engine.add(request("long", random_tokens(HYBRID, 50, 1), 2))
    stats = [delta.stats for _ in range(6) for delta in engine.step() if delta.stats is not None]
    keys = 13 * engine._runner.groups[0].bytes_per_block
    assert stats[0].cache_bytes <= keys + 4 * state_bytes(HYBRID)


def test_a_state_that_is_no_number_stays_its_own() -> None:
    """A row whose numbers overflow ends, and the page it had is the next one's without a trace."""
    model = random_model(ALONE)
    bad = 7
    model.embedding.weight[bad] = float("nan")
    prompt = tuple(token for token in random_tokens(ALONE, 12, 3) if token != bad)
    calm = engine_of(model)
    calm.add(request("good", prompt))
    expected = run(calm)["good"][0]
    engine = engine_of(model)
    for name, text in (("good", prompt), ("bad", (*prompt, bad)), ("later", prompt)):
        engine.add(request(name, text))
    outputs = {}
    while engine.has_work:
        for delta in engine.step():
            if delta.stats is not None:
                outputs[delta.request.id] = delta.request.outputs, delta.stats.outcome
    assert outputs["bad"][1] is Outcome.ERROR
    assert outputs["good"][0] == outputs["later"][0] == expected

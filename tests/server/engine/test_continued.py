"""Inputs of a step that goes on with the rows before are those that building them anew would give."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model import presets
from model.config import Architecture, Attention, FeedForward, Full, Grouped, Rotary, Window
from model.kernels import passes
from model.paged import PagedView
from model.transformer import StepInput
from server.engine.engine import Engine
from server.engine.runner import ModelRunner, Room
from server.engine.step import Step
from tests.fakes import Recorder, make_request
from tests.model.cases import CASES, MIXTURE_CASES, block
from tests.model.randomise import random_model

PAGE = 4


def architecture(*spans: Full | Window) -> Architecture:
    attention = Attention(Grouped(4, 2, 16), Rotary())
    return Architecture(61, 64, 64, tuple(block(replace(attention, span=span), FeedForward(96)) for span in spans))


def numbers(inputs: StepInput) -> list[Tensor]:
    """All that a step of single tokens is told, its tables up to the page of each row's own token."""
    view = inputs.cache
    assert isinstance(view, PagedView) and inputs.select is None
    told = [inputs.tokens, inputs.positions]
    for group in view.groups:
        assert group.decode is not None and group.firsts is not None and not group.stretches
        pages = group.decode.pages
        assert pages.new is not None
        told += [group.slots, group.firsts, group.decode.tokens, pages.starts, pages.first, pages.last, pages.new]
        told += [row[: int(last) // PAGE + 1] for row, last in zip(pages.table, pages.last, strict=True)]
    if view.states is not None:
        told += map(torch.from_numpy, (view.states.pages.starts, view.states.pages.before, view.states.pages.after))
    return [tensor.clone() for tensor in told]


class Watching(ModelRunner):
    """Builds every step of outputs fed back anew beside what it is given."""

    def __init__(self, architecture: Architecture, room: Room) -> None:
        super().__init__(passes.apply(random_model(architecture)), room)
        self.built, self.followed = 0, 0
        self.wrong: list[tuple[Tensor, Tensor]] = []
        self.step = Step(0, ())

    def _inputs(self, step: Step) -> StepInput:
        self.step, before = step, self.built
        single = all(row.feeds_back and row.count == 1 for row in step.rows)
        anew = numbers(super()._built(step)) if single else []  # first: states go where the last that was asked says
        inputs = super()._inputs(step)
        self.followed += self.built == before
        if single:
            pairs = zip(numbers(inputs), anew, strict=True)
            self.wrong += [pair for pair in pairs if not torch.equal(*pair)]  # told later: here it would be some row's
        return inputs

    def _built(self, step: Step) -> StepInput:
        self.built += 1
        return super()._built(step)


def engine_of(runner: ModelRunner) -> Engine:
    return Engine("m", runner, observer=Recorder(), max_batch_tokens=24, max_rows=5)


def watching(*spans: Full | Window) -> Watching:
    return Watching(architecture(*spans), Room(96, 5, 24, PAGE))


def serve(runner: Watching, seed: int) -> None:
    """Requests that come, end and are cancelled at any time, more of them than there is room for."""
    chance, engine = random.Random(seed), engine_of(runner)
    for number in range(150):
        if chance.random() < 0.15:
            prompt = [chance.randrange(61) for _ in range(chance.randint(1, 20))]
            engine.add(make_request(prompt, chance.randint(1, 25), id=str(number)))
        if chance.random() < 0.1:
            engine.cancel(str(number - chance.randrange(20)))
        engine.step()
        engine.check()


def go_on(runner: Watching, steps: int, **more: object) -> None:
    """Three requests that begin together and are not done before."""
    engine = engine_of(runner)
    for number in range(3):
        engine.add(make_request([number] * 5, steps + 1, id=str(number), **more))
    for _ in range(steps):
        engine.step()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_followed_is_what_is_built(seed: int) -> None:
    runner = watching(Full(), Full())
    serve(runner, seed)
    assert not runner.wrong and runner.followed > 20 and runner.built > 20


@pytest.mark.parametrize("seed", range(3))
def test_states_are_followed_too(seed: int) -> None:
    runner = Watching(CASES["recurrent: gated delta"], Room(96, 5, 24, PAGE))
    serve(runner, seed)
    assert not runner.wrong and runner.followed > 20 and runner.built > 20


def test_windows_are_built_anew() -> None:
    runner = watching(Full(), Window(5))
    serve(runner, 0)
    assert not runner.wrong and not runner.followed


@pytest.mark.parametrize("name", ["capacity, Switch", "encoder"])
def test_what_rows_bring_along_is_built_anew(name: str) -> None:
    """How a row chose experts before, where they have a capacity, and what it looks at beside its own."""
    encoded = name == "encoder"
    shape = presets.scaled(presets.load("transformer-base"), "tiny") if encoded else MIXTURE_CASES[name]
    runner = Watching(shape, Room(96, 5, 24, PAGE))
    go_on(runner, 9, source=(1, 2, 3) if encoded else ())
    assert runner.built > 5 and not runner.followed and not runner.wrong


def test_steps_that_only_go_on_are_followed_to_the_end_of_a_page() -> None:
    runner = watching(Full())
    go_on(runner, 25)
    assert runner.built <= 2 + 25 // PAGE


def test_the_last_token_of_a_prompt_is_not_gone_on_from() -> None:
    """It is a step of a single token too, but not attended as an output is."""
    runner = watching(Full())
    engine = engine_of(runner)
    engine.add(request := make_request([1] * 25, 4))
    for _ in range(5):
        engine.step()
    assert len(request.outputs) == 4 and not runner.wrong
    assert (runner.built, runner.followed) == (3, 2), "24 tokens, the last, the first output; then two more"


def test_other_rows_are_not_followed() -> None:
    """The same step again, a half of it, or more of a row: as where a row has made the model fail."""
    runner = watching(Full())
    go_on(runner, 3)
    rows = runner.step.rows
    further = tuple(row._replace(start=row.start + 1) for row in rows)
    others = rows, further[:1], further[::-1], tuple(row._replace(count=2) for row in further)
    assert all(runner._continued.follow(Step(0, other)) is None for other in others)
    assert runner._continued.follow(Step(0, further)) is not None

"""A GPU's runner on the processor: filled up, placed and replayed, a step gives what the plain runner gives."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import Tensor

from model.config import Architecture
from model.kernels import flex, native, paged
from server.engine.step import Step, StepResult
from tests.model.cases import MIXED_CASES, MIXTURE_CASES, POSITION_CASES, SPAN_CASES
from tests.model.parity import TEXTS, assert_text, assert_texts, prepared
from tests.model.randomise import random_model, random_tokens
from tests.model.recorded import RecordedRunner, overhear
from tests.model.served import HandEngine
from tests.server.engine import test_speculating_models as speculating
from tests.server.engine.test_served_memory import tiny

CASES = {**MIXED_CASES, **SPAN_CASES, **{name: POSITION_CASES[name] for name in ("alibi, six heads", "learned")}}
CASES["experts of unlike number"] = MIXED_CASES["chunks and full layers, two kinds of experts"]
CASES["capacity, Switch"] = MIXTURE_CASES["capacity, Switch"]
ARCHITECTURES = pytest.mark.parametrize("architecture", CASES.values(), ids=CASES.keys())
WINDOWS = SPAN_CASES["window, chunk and full layers"]


class CardEngine(HandEngine):
    """Hand-driven over a GPU's runner; it overhears the runner, because a replay does not go through the model."""

    runner: RecordedRunner

    def __init__(self, architecture: Architecture, texts: bool = True, **options: Any) -> None:
        model, tokens, _ = prepared(architecture)
        super().__init__(model, **options)
        self.runner = RecordedRunner(model, self.runner.room)
        for one, (_, prompt) in zip(tokens, TEXTS, strict=True) if texts else ():
            self.add(one, prompt)

    def _run(self, step: Step) -> tuple[Tensor, StepResult]:
        return overhear(self.runner, step)


def uncaptured(engine: CardEngine) -> bool:
    """Whether a step depends on more than a graph is told: what experts with a capacity chose before, or states."""
    return engine.runner.states is not None or any(mixture.limited for mixture in engine.runner.mixtures)


@ARCHITECTURES
def test_any_cut_in_any_company(architecture: Architecture, kernel: str) -> None:
    engine = CardEngine(architecture, page_size=3, seed=5)
    engine.finish()
    assert_texts(engine, architecture)
    assert engine.runner.captured == (() if uncaptured(engine) else (1, 2, 3))


@ARCHITECTURES
def test_single_tokens_are_replayed(architecture: Architecture, kernel: str) -> None:
    engine = CardEngine(architecture)
    while waiting := [text for text in engine.texts if not text.done]:
        engine.step((text, 1) for text in waiting)
    assert_texts(engine, architecture)
    assert engine.runner.recorder.replays == (0 if uncaptured(engine) else engine.steps)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["window, chunk and full layers", "sinks, windows, clamped experts"])
def test_through_the_attention_of_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a GPU's way but the compiled kernels."""
    architecture, read = CASES[name], []

    def in_place(*arguments: Any) -> Tensor:
        *most, _ = arguments
        read.append(flex.decode(*most))
        return read[-1]

    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(paged, "plain", in_place)
    engine = CardEngine(architecture)
    for text in engine.texts:
        engine.step([(text, 5)])
    while waiting := [text for text in engine.texts if not text.done]:
        engine.step((text, 1) for text in waiting)
    assert_texts(engine, architecture)
    assert read


@pytest.mark.parametrize("speculate", [0, 4], ids=["single tokens", "guesses"])
@pytest.mark.parametrize("architecture", speculating.CASES.values(), ids=speculating.CASES.keys())
def test_whole_answers_are_the_same(
    architecture: Architecture, speculate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy and drawn, with log-probabilities, penalties and bans, prefixes found and prompts cut."""
    model, expected = speculating.plain(architecture)
    monkeypatch.setattr(speculating, "ModelRunner", RecordedRunner)
    drafter = speculating.remembering(expected, 5)
    found, engine = speculating.serve(model, speculate=speculate, drafter=drafter)
    speculating.assert_same(found, expected)
    runner = engine._runner
    assert isinstance(runner, RecordedRunner)
    assert (runner.recorder.replays > 0) is bool(runner.captured)


@pytest.mark.parametrize("name", ["transformer-base", "switch-base-8"])
def test_a_model_with_an_encoder_runs_unrecorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    expected, _ = speculating.serve(model, source=True)
    monkeypatch.setattr(speculating, "ModelRunner", RecordedRunner)
    found, engine = speculating.serve(model, source=True)
    speculating.assert_same(found, expected)
    assert engine._runner.captured == ()  # type: ignore[attr-defined]


def test_what_fills_up_writes_to_its_own_page_alone() -> None:
    engine = CardEngine(WINDOWS, texts=False, leftover=0.0)
    tokens = prepared(WINDOWS)[1][0]
    alone = engine.add(tokens, prompt=len(tokens))
    while not alone.done:
        engine.step([(alone, 1)])
    three = [engine.add(tokens, prompt=len(tokens)) for _ in range(3)]
    engine.step((text, 1) for text in three)
    for layer, pool in enumerate(engine.runner.cache.keys):
        group = engine.runner.groups[engine.runner.cache.pools.groups[layer]]
        assert len(pool) == group.num_blocks + 1
        assert not pool[0].any()
    assert engine.runner.captured == (1, 2, 3)


@pytest.mark.parametrize("poison", [math.nan, math.inf], ids=str)
def test_a_poisoned_token_fails_its_own_row_and_leaves_nothing_behind(poison: float) -> None:
    architecture = WINDOWS
    tokens = random_tokens(architecture, 14, seed=0)
    bad = next(token for token in range(architecture.vocab) if token not in tokens and token)
    engine = CardEngine(architecture, texts=False, leftover=0.0)
    model = random_model(architecture)
    model.embedding.weight[bad] = poison
    engine.runner = RecordedRunner(model, engine.runner.room)
    good, hurt = engine.add(tokens, prompt=9), engine.add((*tokens[:8], bad, *tokens[8:]), prompt=15)
    engine.step([(good, 5), (hurt, 8)])
    result = engine.step([(hurt, 1), (good, 1)])
    assert list(result.failed) == [0]
    while not good.done:
        engine.step([(good, 1)])
    assert_text(good, prepared_logits(architecture, tokens))
    for pool in (*engine.runner.cache.keys, *engine.runner.cache.values):
        assert pool is None or pool.isfinite().all()


def prepared_logits(architecture: Architecture, tokens: tuple[int, ...]) -> Any:
    from model.reference import logits_of

    return logits_of(random_model(architecture), tokens)

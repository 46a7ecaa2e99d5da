"""The reference's numbers come out however a text is cut, mixed, thrown out, or begun from another's pages."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Architecture
from model.kernels import native
from model.reference import logits_of
from server.engine.request import Sampling
from server.engine.runner import ModelRunner
from tests.model.cases import MIXED_CASES, SPAN_CASES
from tests.model.parity import assert_text, assert_texts, prepared, waiting
from tests.model.randomise import random_model, random_tokens
from tests.model.served import HandEngine

MIXED = pytest.mark.parametrize("architecture", MIXED_CASES.values(), ids=MIXED_CASES.keys())
SPANS = pytest.mark.parametrize("architecture", SPAN_CASES.values(), ids=SPAN_CASES.keys())
DENSE = SPAN_CASES["window, chunk and full layers"]


@MIXED
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_cut_in_any_company(architecture: Architecture, data: st.DataObject) -> None:
    engine = waiting(architecture, page_size=data.draw(st.integers(1, 6), label="page size"))
    while open_texts := [text for text in engine.texts if not text.done]:
        rows = st.dictionaries(st.integers(0, len(open_texts) - 1), st.integers(1, 7), min_size=1)
        plan = data.draw(rows, label="row: tokens")
        engine.step((open_texts[row], count) for row, count in plan.items())
        if data.draw(st.integers(0, 9), label="preempt at 9") == 9:
            engine.throw_out(engine.texts[0])
    assert_texts(engine, architecture)


@SPANS
def test_a_text_may_begin_in_the_pages_of_another(architecture: Architecture, kernel: str) -> None:
    model = random_model(architecture)
    source = random_tokens(architecture, 16, seed=1)
    target = source[:8] + random_tokens(architecture, 9, seed=2)
    engine = HandEngine(model)
    first, second = engine.add(source, prompt=13), engine.add(target, prompt=12)
    engine.step([(first, 5)])
    engine.step([(first, 3)])
    engine.share(first, second, pages=2)
    engine.finish()
    assert min(second.logits) >= 8, "the shared pages were computed again"
    for text in (first, second):
        assert_text(text, logits_of(model, text.tokens), since=8 if text is second else 0)


@SPANS
def test_a_window_gives_pages_back(architecture: Architecture) -> None:
    engine = waiting(architecture)
    text = engine.texts[0]
    spans = [group.span for group in engine.runner.groups]
    while not text.done:
        engine.step([(text, 1)])
        for span, table in zip(spans, text.tables, strict=True):
            unseen = span.first_visible(text.request.num_computed) // engine.page_size
            assert not any(table[:unseen]) and all(table[unseen:])


def test_the_greedy_token_and_its_log_probabilities_are_the_models() -> None:
    model, (tokens, *_), [(logits, _), *_] = prepared(DENSE)
    engine = HandEngine(model)
    text = engine.add(tokens, prompt=len(tokens), sampling=Sampling(9, temperature=0, logprobs=4))
    assert engine.step([(text, 6)]).tokens == ()
    result = engine.step([(text, 99)])
    logs = logits[-1].log_softmax(-1)
    best = logs.topk(4)
    assert result.tokens == (int(best.indices[0]),)
    (found,) = result.logprobs
    assert found is not None and [token for token, _ in found.top] == best.indices.tolist()
    assert [found.chosen, *(p for _, p in found.top)] == pytest.approx(
        [float(best.values[0]), *best.values.tolist()], abs=1e-4
    )


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_logits_without_a_token_are_never_drawn(temperature: float) -> None:
    """A vocabulary padded to a round number: the padding is as if it were not there."""
    model, (tokens, *_), [(logits, _), *_] = prepared(DENSE)
    engine = HandEngine(model)
    engine.runner = ModelRunner(model, engine.runner.room, vocab=3)
    for seed in range(20):
        how = Sampling(9, temperature=temperature, seed=seed, logprobs=3)
        text = engine.add(tokens, prompt=len(tokens), sampling=how)
        result = engine.step([(text, 99)])
        (drawn,), (found,) = result.tokens, result.logprobs
        assert drawn < 3 and found is not None
        assert sum(math.exp(log) for _, log in found.top) == pytest.approx(1.0, abs=1e-5)
        assert temperature or drawn == int(logits[-1, :3].argmax())


# ---------------------------------------------------------------------------------------------- what lies in old pages


@SPANS
@pytest.mark.parametrize("leftover", [-1e4, 1e30], ids=str)
def test_leftovers_of_a_page_are_never_seen(architecture: Architecture, leftover: float, kernel: str) -> None:
    engine = waiting(architecture, leftover=leftover, seed=3)
    engine.finish()
    assert_texts(engine, architecture)


def test_the_compiled_kernel_never_reads_a_slot_nobody_wrote() -> None:
    """Prompt in one piece, then single tokens: nothing else is read than the kernel's visible range."""
    model, (tokens, *_), [expected, *_] = prepared(DENSE)
    engine = HandEngine(model, leftover=math.nan)
    text = engine.add(tokens, prompt=7)
    while not text.done:
        engine.step([(text, 7)])
    assert_text(text, expected)


@pytest.mark.parametrize("size", [7, 5], ids=["single tokens", "the rest of a prompt"])
def test_the_gathering_path_never_reads_a_slot_nobody_wrote(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    model, (tokens, *_), [expected, *_] = prepared(DENSE)
    engine = HandEngine(model, leftover=math.nan)
    text = engine.add(tokens, prompt=7)
    while not text.done:
        engine.step([(text, size)])
    assert_text(text, expected)


@pytest.mark.parametrize("poison", [math.nan, math.inf], ids=str)
@SPANS
def test_a_poisoned_token_fails_its_own_row_and_leaves_nothing_behind(
    architecture: Architecture, poison: float, kernel: str
) -> None:
    model = random_model(architecture)
    tokens = random_tokens(architecture, 14, seed=0)
    bad = next(token for token in range(architecture.vocab) if token not in tokens)
    expected = logits_of(model, tokens)
    model.embedding.weight[bad] = poison
    engine = HandEngine(model, leftover=0.0)
    good, hurt = engine.add(tokens, prompt=9), engine.add((*tokens[:8], bad, *tokens[8:]), prompt=15)
    engine.step([(good, 5), (hurt, 6)])
    result = engine.step([(hurt, 6), (good, 3)])
    assert list(result.failed) == [0]
    assert_every_number_is_finite(engine)
    while not good.done:
        engine.step([(good, 2)])
    assert_text(good, expected)


def assert_every_number_is_finite(engine: HandEngine) -> None:
    for pool in (*engine.runner.cache.keys, *engine.runner.cache.values):
        assert pool is None or pool.isfinite().all()

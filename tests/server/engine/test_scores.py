"""Log-probabilities of the prompt: every one of them and each once, whatever happens to the request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Full
from model.initialise import random_model
from model.reference.forward import logits_of
from server.engine.engine import Engine
from server.engine.request import Outcome, Request
from server.engine.runner import ModelRunner, Room
from server.engine.step import CacheGroup
from tests.fakes import FakeRunner, Recorder, continuation, make_request
from tests.server.engine.conftest import Rig
from tests.server.kit import architecture

Make = Callable[..., Rig]


def scores(request: Request) -> list[float]:
    return [score.chosen for score in request.scores]


@pytest.mark.parametrize("max_batch_tokens", [1, 3, 4, 64])
@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_every_token_but_the_first_has_one(rig: Make, max_batch_tokens: int, max_tokens: int) -> None:
    r = rig(max_batch_tokens=max_batch_tokens, vocab=10)
    request = make_request([3, 1, 4, 1, 5, 9, 2, 6], max_tokens, prompt_logprobs=0)
    r.add(request)
    r.finish()
    assert scores(request) == [-token / 8 for token in request.prompt[1:]]
    assert r.said("r") == continuation(request.prompt, max_tokens, 10)
    assert r.stats("r").outcome is Outcome.LENGTH
    assert r.stats("r").completion_tokens == max_tokens


def test_a_prompt_of_one_token_has_none_and_still_ends(rig: Make) -> None:
    r = rig()
    request = make_request([7], 0, prompt_logprobs=3)
    r.add(request)
    r.finish()
    assert (request.scores, r.last("r").tokens, r.stats("r").outcome) == ([], (), Outcome.LENGTH)


def test_they_are_there_with_the_first_token(rig: Make) -> None:
    r = rig(max_batch_tokens=3)
    request = make_request(range(8), 4, prompt_logprobs=1)
    r.add(request)
    while not r.deltas:
        r.step()
    assert len(request.scores) == 7


def test_a_cached_prefix_is_computed_again_for_its_logits(rig: Make) -> None:
    r = rig()
    r.add(make_request(range(20), 1, id="first"))
    r.finish()
    scored = make_request(range(20), 1, id="scored", prompt_logprobs=0)
    r.add(scored, make_request(range(20), 1, id="plain"))
    r.finish()
    assert (r.stats("scored").cached_tokens, r.stats("plain").cached_tokens) == (0, 16)
    assert len(scored.scores) == 19


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 24), min_size=2, max_size=6),
    scored=st.integers(0, 63),
    blocks=st.integers(9, 16),
    max_batch_tokens=st.integers(1, 24),
)
def test_preempted_or_not_each_is_told_once(
    prompts: list[int], scored: int, blocks: int, max_batch_tokens: int
) -> None:
    runner = FakeRunner(vocab=5, groups=(CacheGroup(Full(), blocks, 1),))
    engine = Engine("fake", runner, observer=Recorder(), max_batch_tokens=max_batch_tokens)
    requests = [
        make_request([i % 5 for i in range(n)], 8, id=str(i), prompt_logprobs=0 if scored >> i & 1 else None)
        for i, n in enumerate(prompts)
    ]
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
        engine.check()
    for i, request in enumerate(requests):
        assert scores(request) == ([-token / 8 for token in request.prompt[1:]] if scored >> i & 1 else [])
        assert request.outputs == continuation(request.prompt, 8, 5)


def test_the_model_scores_as_one_plain_pass_does() -> None:
    model = random_model(architecture(), seed=3).eval().requires_grad_(False)
    engine = Engine("m", ModelRunner(model, Room(256, 4, 64, 4)), observer=Recorder(), max_batch_tokens=7)
    prompt = [(i * 37) % 257 for i in range(30)]
    requests = [make_request(prompt, n, id=str(n), prompt_logprobs=2, logprobs=1) for n in (0, 3)]
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
    logs = logits_of(model, prompt)[0].log_softmax(-1)
    for request in requests:
        assert scores(request) == pytest.approx([logs[i, t].item() for i, t in enumerate(prompt[1:])], abs=1e-4)
        for i, score in enumerate(request.scores):
            values, ids = logs[i].topk(2)
            assert [t for t, _ in score.top] == ids.tolist()
            assert [v for _, v in score.top] == pytest.approx(values.tolist(), abs=1e-4)
            assert score.rank == int((logs[i] > logs[i, prompt[i + 1]]).sum()) + 1

"""Models of random weights, which would say anything, held to forms: through the real runner, in a batch, drawn at any
temperature."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from model.initialise import random_model
from model.tokenizer import ByteTokenizer
from server.engine.engine import Engine
from server.engine.request import Outcome, Request, Sampling
from server.engine.runner import ModelRunner, Room
from server.guidance.guides import Guides
from tests.fakes import Recorder
from tests.server.guidance.test_guides import FORMS, LIMITS, Served, assert_has_form
from tests.server.kit import architecture

VOCAB = 257
MODEL = Served(ByteTokenizer(VOCAB))


@pytest_asyncio.fixture
async def guides() -> AsyncIterator[Guides]:
    made = Guides(LIMITS)
    yield made
    made.close()


async def request(guides: Guides, form: str, seed: int, **more: object) -> Request:
    [constraint] = await guides.constraints(FORMS[form], MODEL, 1, endless=False)  # type: ignore[arg-type]
    # The end and what closes a string or an object are made likelier: by chance alone most would only stop when cut.
    liked = tuple((token, 3.0) for token in (256, ord('"'), ord("}"), ord("]")))
    sampling = Sampling(200, seed=seed, logit_bias=liked, stop_ids=frozenset({256}), **more)  # type: ignore[arg-type]
    return Request(f"{form} {seed} {more}", (1, 2, 3), sampling, 0.0, constraint=constraint)


def run(*requests: Request, **options: int) -> dict[str, Outcome]:
    model = random_model(architecture(), seed=5).eval().requires_grad_(False)
    seen = Recorder()
    engine = Engine("m", ModelRunner(model, Room(4096, 16, 64, 4)), observer=seen, **options)  # type: ignore[arg-type]
    for asked in requests:
        engine.add(asked)
    while engine.has_work:
        engine.step()
        engine.check()
    return {stats.id: stats.outcome for stats in seen.requests}


def text(asked: Request) -> bytes:
    return bytes(token for token in asked.outputs if token < 256)


@pytest.mark.parametrize("form", FORMS)
async def test_what_is_complete_has_the_form(form: str, guides: Guides) -> None:
    wishes = [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 2.0, "top_k": 50}, {"top_p": 0.5}]
    asked = [await request(guides, form, seed, **wish) for seed in range(3) for wish in wishes]  # type: ignore[arg-type]
    outcomes = run(*asked)
    complete = [a for a in asked if outcomes[a.id] is Outcome.STOP]
    assert set(outcomes.values()) <= {Outcome.STOP, Outcome.LENGTH}
    assert len(complete) >= 4
    for one in complete:
        assert_has_form(text(one).decode(), FORMS[form])


async def test_neighbours_and_guesses_change_nothing(guides: Guides) -> None:
    forms = [(form, seed) for form in FORMS for seed in range(2)]
    together = [await request(guides, form, seed) for form, seed in forms]
    guessed = [await request(guides, form, seed) for form, seed in forms]
    run(*together)
    run(*guessed, speculate=4)
    for (form, seed), beside, ahead in zip(forms, together, guessed, strict=True):
        alone = await request(guides, form, seed)
        run(alone)
        assert alone.outputs == beside.outputs == ahead.outputs


async def test_min_tokens_hold_back_an_end_that_may_come(guides: Guides) -> None:
    asked = await request(guides, "grammar", 1, min_tokens=60)
    outcomes = run(asked)
    assert len(asked.outputs) > 60 and outcomes[asked.id] in (Outcome.STOP, Outcome.LENGTH)


async def test_log_probabilities_are_those_of_the_model_not_of_the_form(guides: Guides) -> None:
    asked = await request(guides, "choice", 1, logprobs=2)
    model = random_model(architecture(), seed=5).eval().requires_grad_(False)
    engine = Engine("m", ModelRunner(model, Room(256, 4, 64, 4)), observer=Recorder())
    engine.add(asked)
    told = list(iter(lambda: engine.step() if engine.has_work else None, None))
    logprobs = [logprob for deltas in told for delta in deltas for logprob in delta.logprobs]
    assert len(logprobs) == len(asked.outputs)
    assert all(logprob is not None and len(logprob.top) == 2 and logprob.rank >= 1 for logprob in logprobs)
    assert any(logprob is not None and logprob.rank > 1 for logprob in logprobs), "the form forbids the likeliest"

"""Sets of tokens that outputs must come from: in the engine, and in what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import sampling
from model.initialise import random_model
from server.engine import batch
from server.engine.constraint import AllowedIds, ConstraintFailed, Known, bits_of, members
from server.engine.engine import Engine
from server.engine.request import Outcome, Request, Sampling
from server.engine.runner import ModelRunner, Room
from server.engine.step import Pick
from tests.fakes import Recorder, make_request
from tests.server.engine.conftest import Rig
from tests.server.kit import architecture

Make = Callable[..., Rig]


class Countdown(Known):
    """Allows only the token that is so many before the end; nothing may follow 0. `bad`: fails before that token."""

    def __init__(self, start: int, bad: int | None = None) -> None:
        self.left, self.bad = start, bad

    def allowed(self, ahead: Sequence[int] = ()) -> np.ndarray:
        if self.left == self.bad:
            self.failure = "lost count"
            raise ConstraintFailed(self.failure)
        return bits_of([self.left - len(ahead)])

    def push(self, token: int) -> bool:
        assert token == self.left
        self.left -= 1
        return token == 0


@given(ids=st.sets(st.integers(0, 300)), vocab=st.integers(1, 320))
def test_bits_are_the_set(ids: set[int], vocab: int) -> None:
    assert np.flatnonzero(members(bits_of(ids), vocab)).tolist() == sorted(i for i in ids if i < vocab)


def test_a_request_ends_when_nothing_may_follow(rig: Make) -> None:
    r = rig()
    r.add(make_request([1, 2], 9, id="a", constraint=Countdown(3)), make_request([1, 2], 9, id="free"))
    r.finish()
    assert (r.said("a"), r.stats("a").outcome) == ([3, 2, 1, 0], Outcome.STOP)
    assert len(r.said("free")) == 9


def test_one_that_fails_ends_alone(rig: Make) -> None:
    r = rig()
    broken = make_request([1, 2], 9, id="a", constraint=Countdown(3, bad=1))
    r.add(broken, make_request([1, 2], 9, id="free"))
    r.finish()
    assert (r.said("a"), r.stats("a").outcome) == ([3, 2], Outcome.REJECTED)
    assert "lost count" in r.last("a").error and broken.constraint is not None
    assert len(r.said("free")) == 9


def pick(constraint: AllowedIds | None, **more: object) -> Pick:
    wishes = Sampling(max_tokens=9, **more)  # type: ignore[arg-type]
    return Pick(Request("r", (1,), wishes, 0.0, constraint=constraint), 0)


def test_end_tokens_are_barred_until_min_tokens_unless_nothing_else_is_left() -> None:
    ends = frozenset({3})
    picks = [
        pick(None, min_tokens=2, stop_ids=ends),
        pick(AllowedIds([2, 3]), min_tokens=2, stop_ids=ends),
        pick(AllowedIds([3]), min_tokens=2, stop_ids=ends),
        pick(AllowedIds([2, 3]), stop_ids=ends),
    ]
    barred = batch.barred(picks, 5)
    assert barred is not None
    assert [np.flatnonzero(~row).tolist() for row in barred] == [[0, 1, 2, 3, 4], [2], [3], [2, 3]]
    assert batch.barred(picks[:1], 5) is None


@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
def test_what_is_barred_is_never_drawn(temperature: float) -> None:
    rng = np.random.default_rng(1)
    rows, vocab = 400, 40
    logits = torch.from_numpy(rng.normal(0, 30, (rows, vocab))).float()
    barred = rng.random((rows, vocab)) < 0.95
    barred[np.arange(rows), rng.integers(0, vocab, rows)] = False
    draw = sampling.Draw(
        [temperature] * rows,
        rng.choice([0, 1, 5, 100], rows).tolist(),
        rng.choice([1.0, 0.5, 1e-12], rows).tolist(),
        rng.choice([0.0, 0.3, 1.0], rows).tolist(),
        [*rng.random(rows - 2).tolist(), 0.0, 1 - 2**-53],
    )
    tokens = sampling.sample(sampling.bar(logits, barred), draw).numpy()
    assert not barred[np.arange(rows), tokens].any()


def test_a_real_model_says_only_what_is_allowed_and_the_others_say_the_same() -> None:
    def outputs(*constraints: AllowedIds | None) -> list[list[int]]:
        model = random_model(architecture(), seed=3).eval().requires_grad_(False)
        engine = Engine("m", ModelRunner(model, Room(256, 4, 64, 4)), observer=Recorder())
        requests = [make_request([1, 2, 3], 20, id=str(i), constraint=c) for i, c in enumerate(constraints)]
        for request in requests:
            engine.add(request)
        while engine.has_work:
            engine.step()
        return [request.outputs for request in requests]

    few, free = outputs(AllowedIds([7, 250]), None)
    assert set(few) <= {7, 250} and len(few) == 20
    assert [free] == outputs(None)

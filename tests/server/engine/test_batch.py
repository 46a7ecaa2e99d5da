"""From requests to changes of single logits, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from model.sampling import edit, uniform
from server.engine.batch import draw_of
from server.engine.edits import edits_of, only_likeliest
from server.engine.request import Request, Sampling
from server.engine.step import Pick


def request(outputs: tuple[int, ...] = (), prompt: tuple[int, ...] = (0, 1), **sampling: Any) -> Request:
    return Request("r", prompt, Sampling(9, **sampling), arrived=0.0, outputs=list(outputs))


def picks(*requests: Request) -> list[Pick]:
    """The next token of each."""
    return [Pick(request, request.num_tokens - 1) for request in requests]


def edited(*requests: Request) -> list[list[float]]:
    logits = torch.tensor([[1.0, -1.0, 2.0, 0.5]]).repeat(len(requests), 1)
    rows: list[list[float]] = edit(logits, edits_of(picks(*requests))).tolist()
    return rows


def test_presence_counts_once_and_frequency_every_time() -> None:
    """Token 2 was said three times, token 3 once; the prompt's tokens were not said."""
    outputs = (2, 2, 3, 2)
    assert edited(request(outputs, presence_penalty=0.5)) == [[1.0, -1.0, 1.5, 0.0]]
    assert edited(request(outputs, frequency_penalty=0.5)) == [[1.0, -1.0, 0.5, 0.0]]
    assert edited(request(outputs, presence_penalty=0.5, frequency_penalty=-1.0)) == [[1.0, -1.0, 4.5, 1.0]]


def test_repetition_counts_the_prompt_and_works_on_either_sign() -> None:
    assert edited(request((2,), repetition_penalty=2.0)) == [[0.5, -2.0, 1.0, 0.5]]


def test_repetition_acts_on_the_models_own_logit() -> None:
    """Before biases and the other penalties: 2 / 2, then + 1, then - 0.25."""
    asked = request((2,), repetition_penalty=2.0, logit_bias=((2, 1.0),), presence_penalty=0.25)
    assert edited(asked)[0][2] == 1.75


def test_ends_are_forbidden_until_the_least_number_of_tokens_is_out() -> None:
    ends: dict[str, Any] = {"min_tokens": 2, "stop_ids": frozenset({1, 3}), "logit_bias": ((3, 100.0),)}
    assert edited(request((2,), **ends)) == [[1.0, -math.inf, 2.0, -math.inf]]
    assert edited(request((2, 2), **ends)) == [[1.0, -1.0, 2.0, 100.5]]


def test_a_row_is_changed_by_its_own_request_alone() -> None:
    requests = (request((2,)), request((2,), presence_penalty=1.0), request((), logit_bias=((0, -1.0),)))
    assert edited(*requests) == [[1.0, -1.0, 2.0, 0.5], [1.0, -1.0, 1.0, 0.5], [0.0, -1.0, 2.0, 0.5]]
    assert [edited(one)[0] for one in requests] == edited(*requests)


def test_plain_requests_change_nothing() -> None:
    assert not edits_of(picks(request((2, 3)), request()))


@pytest.mark.parametrize("outputs", [(), (2,), (2, 3, 2)])
def test_the_draw_depends_on_seed_and_number_of_the_output_alone(outputs: tuple[int, ...]) -> None:
    one, other = request(outputs, seed=5), request(tuple(reversed(outputs)), (3, 3, 3), seed=5, top_k=2)
    greedy = request(outputs, seed=5, temperature=0.0)
    draw = draw_of(picks(one, other, greedy))
    assert draw.uniform == [uniform(5, len(outputs))] * 2 + [0.0]
    assert (draw.temperature, draw.top_k) == ([1.0, 1.0, 0.0], [0, 2, 0])


def test_a_greedy_row_without_ends_is_edited_by_nothing() -> None:
    free: dict[str, Any] = {"temperature": 0.0, "min_tokens": 9}
    assert only_likeliest(picks(request(**free), request((2, 3), **free)))
    assert not only_likeliest(picks(request(**free), request(**free, stop_ids=frozenset({1}))))

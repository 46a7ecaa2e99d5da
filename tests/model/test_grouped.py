"""Experts as one grouped product: the same numbers as one expert after another, and no question to the host."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.config import FeedForward
from model.kernels import grouped
from model.kernels.grouped import GroupedExperts
from model.moe import Experts, MoE, Routing
from tests.model.cases import MIXTURE, mixing
from tests.model.randomise import random_model

WIDTH, HIDDEN, COUNT = 16, 24, 5
FORMS = {
    "gated": FeedForward(HIDDEN),
    "plain, with biases": FeedForward(HIDDEN, gated=False, activation="gelu", bias=True),
}
CHOICES = {
    "even": [0, 1, 2, 3, 4] * 4,
    "one for all": [3] * 9,
    "some for none": [0, 5, 2, 5, 5, 4, 4],
    "none": [5, 5, 5],
    "a single row": [2],
}


def experts(value: FeedForward, dtype: torch.dtype = torch.float32) -> Experts:
    torch.manual_seed(0)
    made = Experts(value, COUNT, WIDTH).to(dtype).requires_grad_(False)
    for bias in (made.up_bias, made.down_bias):
        if bias is not None:
            bias.normal_()
    return made


@pytest.mark.parametrize("way", ["fused", "over all", "one by one"])
@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES.keys())
@pytest.mark.parametrize("value", FORMS.values(), ids=FORMS.keys())
def test_each_expert_gets_its_rows(
    value: FeedForward, choice: list[int], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, chosen = experts(value), torch.tensor(choice)
    order = chosen.argsort(stable=True)
    rows = torch.randn(len(choice), WIDTH)
    stack = GroupedExperts(plain)
    stack.fused = way == "fused"
    monkeypatch.setattr(grouped, "LARGEST", 10**6 if way == "over all" else 0)
    pairs = zip(rows, chosen[order].tolist(), strict=True)
    expected = torch.stack([plain(row[None], e)[0] if e < COUNT else row * 0 for row, e in pairs])
    assert torch.allclose(stack.each(rows, chosen, order), expected, atol=1e-5)


def test_in_bfloat16_it_is_as_near_as_one_expert_after_another() -> None:
    plain = experts(FORMS["gated"], torch.bfloat16)
    stack = GroupedExperts(plain)
    assert stack.fused
    chosen = torch.tensor(CHOICES["some for none"])
    order = chosen.argsort(stable=True)
    rows = torch.randn(len(chosen), WIDTH, dtype=torch.bfloat16)
    found, expected = (s.each(rows, chosen, order).float() for s in (stack, plain))
    assert torch.allclose(found, expected, atol=2e-2, rtol=2e-2)


def test_a_mixture_layer_is_the_same_with_it() -> None:
    model = random_model(mixing(replace(MIXTURE, expert=FeedForward(HIDDEN), weigh="input")))
    x = torch.randn(11, model.architecture.width)
    layer = next(module for module in model.modules() if isinstance(module, MoE))
    expected, routing = layer(x, None)
    layer.experts = GroupedExperts(layer.experts)
    layer.experts.fused = True
    found, again = layer(x, None)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(routing.experts, again.experts)
    dropped = Routing(torch.where(routing.experts == 2, ~2, routing.experts), *routing_rest(routing))
    one = layer.experts.mix(x, dropped, "input")
    layer.experts.fused = False
    assert torch.allclose(one, layer.experts.mix(x, dropped, "input"), atol=1e-5)


def routing_rest(routing: Routing) -> tuple[torch.Tensor, ...]:
    return routing.gates, routing.logits, routing.ranked


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((4, 64, 32), torch.bfloat16, True),
        ((4, 64, 36), torch.bfloat16, False),
        ((4, 60, 32), torch.bfloat16, False),
        ((4, 64, 32), torch.float32, False),
    ],
)
def test_what_the_grouped_product_takes(shape: tuple[int, ...], dtype: torch.dtype, expected: bool) -> None:
    assert grouped.fits(torch.empty(shape, dtype=dtype)) is expected


def test_experts_of_the_processor_are_left_as_they_are() -> None:
    assert grouped.group(random_model(mixing())) == 0

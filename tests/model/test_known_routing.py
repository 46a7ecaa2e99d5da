"""Known answers of routers, experts and their losses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.config import Capacity, FeedForward, Groups, MoE, RouterLoss
from model.config import Router as RouterValue
from model.moe import Loads, Router, Routing, drop_over_capacity, limit_to_groups
from model.moe import MoE as Mixture
from model.training import balance_loss, corrected, z_loss

WIDTH = 10
EXPERTS = MoE(6, 6, FeedForward(7))


def mixture(value: MoE, seed: int = 0) -> Mixture:
    module = Mixture(value, WIDTH, 0).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
    return module


def inputs(tokens: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("normalise", [True, False])
def test_all_experts_active_is_the_dense_mixture(normalise: bool) -> None:
    module = mixture(replace(EXPERTS, router=RouterValue(normalise=normalise)))
    x = inputs()
    shares = (x @ module.router.weight.T).softmax(-1)
    dense = sum(shares[:, e, None] * module.experts(x, e) for e in range(6))
    assert torch.allclose(module(x, None)[0], torch.as_tensor(dense), atol=1e-5)


def test_softmax_and_normalise_is_softmax_over_the_chosen_logits() -> None:
    module = mixture(replace(EXPERTS, active=3))
    routing = module(inputs(), None)[1]
    assert torch.allclose(routing.gates, routing.logits.gather(1, routing.experts).softmax(-1), atol=1e-6)
    assert (routing.gates.diff(dim=-1) <= 0).all(), "experts stand in order of choice"


def test_the_rank_ends_with_the_best_expert_that_was_not_chosen() -> None:
    module = mixture(replace(EXPERTS, active=2))
    routing = module(inputs(), None)[1]
    ordered = routing.logits.softmax(-1).sort(descending=True)
    assert torch.equal(routing.experts, ordered.indices[:, :2])
    assert torch.equal(routing.ranked, ordered.values[:, :3])


def test_the_rank_ends_with_nothing_where_nothing_could_be_chosen() -> None:
    every = mixture(EXPERTS)(inputs(), None)[1]
    assert every.ranked.shape == (40, 7) and not every.ranked[:, -1].any()
    grouped = mixture(replace(EXPERTS, active=2, router=RouterValue(groups=Groups(3, 1))))(inputs(), None)[1]
    assert grouped.ranked.shape == (40, 3) and not grouped.ranked[:, -1].any()


def test_a_correction_counts_in_the_rank_and_not_in_the_gates() -> None:
    module = mixture(replace(EXPERTS, active=1, router=RouterValue("sigmoid", correction=True, normalise=False)))
    assert module.router.correction is not None
    module.router.correction.zero_()[3] = -9.0
    routing = module(inputs(), None)[1]
    scores = routing.logits.sigmoid()
    others = scores[:, [0, 1, 2, 4, 5]].sort(descending=True).values
    assert torch.equal(routing.ranked, others[:, :2]) and torch.equal(routing.gates, others[:, :1])


def test_one_group_and_all_groups_are_no_groups() -> None:
    plain = mixture(replace(EXPERTS, active=2))
    for groups in (Groups(3, 3), Groups(1, 1), Groups(6, 6, "max")):
        grouped = mixture(replace(EXPERTS, active=2, router=RouterValue(groups=groups)))
        assert torch.equal(grouped(inputs(), None)[0], plain(inputs(), None)[0])


@given(st.integers(1, 4), st.sampled_from(["max", "top2"]), st.integers(0, 99))
def test_chosen_experts_lie_in_the_kept_groups(kept: int, score: str, seed: int) -> None:
    """arXiv:2405.04434 §2.2.1: 12 experts in 4 groups of 3."""
    scores = torch.rand(50, 12, generator=torch.Generator().manual_seed(seed))
    limited = limit_to_groups(scores, Groups(4, kept, score))  # type: ignore[arg-type]
    assert (limited.isfinite().sum(-1) == 3 * kept).all()
    chosen = limited.topk(min(3, 3 * kept)).indices // 3
    assert all(len(set(row)) <= kept for row in chosen.tolist())


def test_a_group_is_worth_its_best_or_its_two_best() -> None:
    scores = torch.tensor([[0.9, 0.0, 0.0, 0.5, 0.5, 0.4]])
    assert limit_to_groups(scores, Groups(2, 1, "max")).isfinite().tolist() == [[True] * 3 + [False] * 3]
    assert limit_to_groups(scores, Groups(2, 1, "top2")).isfinite().tolist() == [[False] * 3 + [True] * 3]


def test_a_correction_chooses_but_does_not_weigh() -> None:
    """arXiv:2408.15664."""
    router = Router(MoE(3, 1, FeedForward(1), RouterValue("sigmoid", normalise=False, correction=True)), 3)
    router.weight.data = torch.eye(3)
    assert router.correction is not None
    router.correction.copy_(torch.tensor([0.0, 0.0, 1.0]))
    routing = router(torch.tensor([[2.0, 1.0, -1.0]]))
    assert routing.experts.tolist() == [[2]]
    assert routing.gates.item() == pytest.approx(1 / (1 + math.e))


def test_the_correction_moves_against_the_load() -> None:
    """b += 0.001 sign(mean - load); the mean of 4, 2, 1, 1 is 2."""
    moved = corrected(torch.zeros(4), torch.tensor([4, 2, 1, 1]), 0.001)
    assert moved.tolist() == pytest.approx([-0.001, 0.0, 0.001, 0.001])


# ---------------------------------------------------------------------------------------------- capacity


@pytest.mark.parametrize(("factor", "room"), [(1.0, 2), (1.5, 3), (1.25, 2)])
def test_capacity_is_tokens_over_experts_times_the_factor(factor: float, room: int) -> None:
    """arXiv:2101.03961 figure 3: 6 tokens, 3 experts."""
    assert Capacity(factor, 6).per_expert(3) == room


def dropped(choices: list[int], capacity: int, sequence: list[int], prior: Tensor | None = None) -> list[bool]:
    experts, rows = torch.tensor(choices)[:, None], max(sequence) + 1
    prior = torch.zeros(rows, 3, dtype=torch.long) if prior is None else prior
    return (drop_over_capacity(experts, capacity, torch.tensor(sequence), prior) < 0).flatten().tolist()


def test_an_expert_takes_the_first_that_come() -> None:
    """Choices 0 0 0 1 2 0 with room for two: the third and the fourth that ask expert 0 are dropped."""
    assert dropped([0, 0, 0, 1, 2, 0], 2, [0] * 6) == [False, False, True, False, False, True]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.data())
def test_dropping_knows_sequences_and_what_came_before(choices: list[int], data: st.DataObject) -> None:
    """However a sequence is cut into steps, and whatever lies beside it in a step, the same tokens are dropped."""
    whole = dropped(choices, 2, [0] * len(choices))
    cut = data.draw(st.integers(0, len(choices) - 1))
    prior = torch.bincount(torch.tensor(choices[:cut], dtype=torch.long), minlength=3)
    beside = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=5))
    second = choices[cut:]
    both = dropped(
        beside + second, 2, [0] * len(beside) + [1] * len(second), torch.stack((torch.zeros(3).long(), prior))
    )
    assert both[len(beside) :] == whole[cut:]


def test_a_dropped_token_keeps_only_its_residual() -> None:
    module = mixture(MoE(3, 1, FeedForward(7), RouterValue(normalise=False, capacity=Capacity(0.5, 6))))
    x = inputs(8)
    y, routing = module(x, Loads(torch.zeros(8, dtype=torch.long), torch.zeros(1, 1, 3, dtype=torch.long)))
    lost = (routing.experts < 0).flatten()
    assert lost.any() and not lost.all()
    assert not y[lost].any() and y[~lost].any(-1).all()
    assert not routing.gates[lost].any()


# ---------------------------------------------------------------------------------------------- losses


def routing(logits: Tensor, active: int = 1) -> Routing:
    scores, experts = logits.softmax(-1).topk(active)
    return Routing(experts, scores, logits, logits.softmax(-1).topk(active + 1).values)


def test_the_balance_loss_is_one_when_even_and_the_number_of_experts_at_collapse() -> None:
    """arXiv:2101.03961 eq. 4-6."""
    even = 50.0 * torch.eye(4).repeat(8, 1)
    assert balance_loss(routing(even), 4).item() == pytest.approx(1.0)
    assert balance_loss(routing(50.0 * torch.eye(4)[:1].repeat(8, 1)), 4).item() == pytest.approx(4.0)
    indifferent = Routing(
        torch.tensor([[0, 1], [2, 3]]), torch.full((2, 2), 0.5), torch.zeros(2, 4), torch.full((2, 3), 0.25)
    )
    assert balance_loss(indifferent, 4).item() == pytest.approx(1.0), "whatever the top-k"


def test_the_z_loss_of_eight_zero_logits() -> None:
    """arXiv:2202.08906 eq. 5: (ln 8)^2."""
    assert z_loss(routing(torch.zeros(5, 8))).item() == pytest.approx(4.324077, abs=1e-6)


def test_jitter_multiplies_what_the_router_sees_in_training_alone() -> None:
    """arXiv:2101.03961 section 2.4: uniform in [1 - jitter, 1 + jitter], drawn anew for every number."""
    module = mixture(replace(EXPERTS, router=RouterValue(loss=RouterLoss(jitter=0.1)))).router
    x = torch.full((4000, WIDTH), 2.0)
    still = module.eval()(x).logits
    assert torch.equal(still, x @ module.weight.T) and torch.equal(still, module(x).logits)
    torch.manual_seed(0)
    factors = module.train()._jittered(x) / 2
    assert 0.9 <= factors.min() < 0.901 and 1.099 < factors.max() <= 1.1
    assert factors.mean().item() == pytest.approx(1.0, abs=0.001)
    assert factors.var().item() == pytest.approx(0.2**2 / 12, rel=0.02), "the variance of a uniform of width 0.2"
    torch.manual_seed(0)
    assert torch.equal(module(x).logits, module.scores(x * factors)), "and the scores are of what was multiplied"


def test_choices_that_were_dropped_count_in_the_balance_loss() -> None:
    """f is the share of tokens that a router sends to an expert, whether it has room or not."""
    kept = routing(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), active=2)
    some = torch.where(torch.arange(12)[:, None] < 7, kept.experts, ~kept.experts)
    assert balance_loss(replace(kept, experts=some), 4) == balance_loss(kept, 4)

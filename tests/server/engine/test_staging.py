"""Trees of tensors go to another place and come back as they were."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from server.engine.staging import Board, fetch, leaves, place, rebuilt

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    values: Tensor
    more: tuple[Tensor, ...] = ()
    maybe: Tensor | None = None


def tree(shift: int = 0) -> tuple[Tensor, None, Part]:
    flags = torch.tensor([True, False, True])
    part = Part("a", torch.arange(5.0) + shift, (flags, torch.arange(6).view(2, 3) + shift), torch.zeros(0))
    return torch.tensor(7 + shift), None, part


def same(a: object, b: object) -> bool:
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(leaves(a), leaves(b), strict=True))


def test_leaves_come_in_order_and_go_back_in_order() -> None:
    made = tree()
    assert len(list(leaves(made))) == 5
    doubled = rebuilt(made, iter([t * 2 if t.dtype != torch.bool else ~t for t in leaves(made)]))
    assert int(doubled[0]) == 14 and doubled[1] is None and doubled[2].name == "a"
    assert doubled[2].more[0].tolist() == [False, True, False]


def test_a_board_holds_whatever_it_was_filled_with_last_at_the_same_place() -> None:
    board = Board(tree(), CPU)
    places = [t.data_ptr() for t in leaves(board.tree)]
    for shift in (3, 5):
        filled = board.fill(tree(shift))
        assert filled is board.tree and same(filled, tree(shift))
        assert [t.data_ptr() for t in leaves(filled)] == places
    assert all(place % 8 == 0 for place in places)


def test_a_board_refuses_another_shape() -> None:
    board = Board((torch.zeros(3), torch.zeros(2)), CPU)
    with pytest.raises(RuntimeError):
        board.fill((torch.zeros(2, 2), torch.zeros(2)))
    with pytest.raises(ValueError, match="zip"):
        board.fill((torch.zeros(3),))  # type: ignore[arg-type]


def test_what_is_placed_is_a_copy() -> None:
    made = tree()
    found = place(made, CPU)
    assert same(found, made)
    made[2].values.fill_(9)
    assert found[2].values.tolist() == [0, 1, 2, 3, 4]


def test_what_is_on_the_host_is_not_fetched() -> None:
    made = tree()
    assert fetch(made) is made

from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

import pytest

from client.compare.plan.schedule import Cell, Order, first_row, schedule


def rows(repeats: int, architectures: int, level: int = 0) -> list[list[int]]:
    """The order of each round at one level."""
    cells = [cell for cell in schedule(repeats, level + 1, architectures) if cell.level == level]
    return [[c.architecture for c in cells if c.repeat == repeat] for repeat in range(repeats)]


def test_rounds_go_a_b_then_b_a() -> None:
    assert rows(5, 2) == [[0, 1], [1, 0], [1, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_everybody_follows_everybody_as_often_and_has_every_place_as_often(count: int, level: int) -> None:
    """In as many rounds as there are architectures, of an odd count twice as many."""
    times = 1 + count % 2
    told = rows(count * times, count, level)
    followed = Counter(pair for row in told for pair in pairwise(row))
    assert set(followed) == set(permutations(range(count), 2)) and set(followed.values()) == {times}
    places = Counter((one, place) for row in told for place, one in enumerate(row))
    assert len(places) == count * count and set(places.values()) == {times}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_machine_that_slows_down_evenly_favours_none(count: int) -> None:
    """In every two rounds the mean instants of all are the same."""
    turns = [one for row in rows(4, count) for one in row]
    assert len({sum(at for at, one in enumerate(turns) if one == each) for each in range(count)}) == 1


def test_every_cell_comes_once() -> None:
    cells = schedule(3, 4, 5)
    assert len(set(cells)) == len(cells) == 60


def test_the_same_rows_for_every_architecture_and_for_no_other_cell() -> None:
    first = {cell: first_row(cell, (10, 4)) for cell in schedule(3, 2, 2)}
    assert first[Cell(1, 1, 0)] == first[Cell(1, 1, 1)] == 24
    assert sorted(set(first.values())) == [0, 10, 14, 24, 28, 38]


def test_the_order_can_be_fixed_or_the_seeds() -> None:
    def order(kind: Order, seed: int = 0) -> list[tuple[int, ...]]:
        cells = schedule(6, 1, 3, kind, seed)
        return [tuple(cell.architecture for cell in cells[i : i + 3]) for i in range(0, len(cells), 3)]

    assert set(order(Order.FIXED)) == {(0, 1, 2)}
    assert order(Order.ROTATED)[:2] == [(0, 1, 2), (2, 1, 0)]
    assert order(Order.RANDOM) == order(Order.RANDOM) != order(Order.RANDOM, seed=1)
    assert all(sorted(one) == [0, 1, 2] for one in order(Order.RANDOM))

from __future__ import annotations

from collections import Counter

from client.compare.schedule import Cell, Order, first_row, schedule


def test_rounds_go_a_b_then_b_a() -> None:
    assert [cell.architecture for cell in schedule(3, 1, 2)] == [0, 1, 1, 0, 0, 1]


def test_every_cell_comes_once() -> None:
    cells = schedule(3, 4, 5)
    assert len(set(cells)) == len(cells) == 60


def test_every_architecture_has_every_place_in_a_round() -> None:
    places = Counter((cell.architecture, place % 3) for place, cell in enumerate(schedule(3, 1, 3)))
    assert set(places.values()) == {1}
    assert len(places) == 9


def test_the_same_rows_for_every_architecture_and_for_no_other_cell() -> None:
    first = {cell: first_row(cell, levels=2, requests=10) for cell in schedule(3, 2, 2)}
    assert first[Cell(1, 1, 0)] == first[Cell(1, 1, 1)] == 30
    assert sorted(set(first.values())) == [0, 10, 20, 30, 40, 50]


def test_the_order_can_be_fixed_or_the_seeds() -> None:
    def order(kind: Order, seed: int = 0) -> list[tuple[int, ...]]:
        cells = schedule(6, 1, 3, kind, seed)
        return [tuple(cell.architecture for cell in cells[i : i + 3]) for i in range(0, len(cells), 3)]

    assert set(order(Order.FIXED)) == {(0, 1, 2)}
    assert order(Order.ROTATED)[:2] == [(0, 1, 2), (1, 2, 0)]
    assert order(Order.RANDOM) == order(Order.RANDOM) != order(Order.RANDOM, seed=1)
    assert all(sorted(one) == [0, 1, 2] for one in order(Order.RANDOM))

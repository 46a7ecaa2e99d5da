from __future__ import annotations

import pytest

from client.compare.turning import Turn, turns

F, S, N = "faster", "slower", "no difference shown"


@pytest.mark.parametrize(
    ("verdicts", "found"),
    [
        ([F, F, S, S], [Turn(1, 2, below=True, above=True)]),
        ([F, S], [Turn(0, 1, below=False, above=False)]),
        ([S, N, N, F, F], [Turn(0, 3, below=False, above=True)]),
        ([N, F, S, N], [Turn(1, 2, below=False, above=False)]),
        ([F, S, F], [Turn(0, 1, below=False, above=False), Turn(1, 2, below=False, above=False)]),
        ([F, N, F], []),
        ([F, N, N], []),
        (["seems faster", S], []),
        (["no verdict: requests failed", S, "", F], [Turn(1, 3, below=False, above=False)]),
        ([], []),
    ],
)
def test_the_order_turns_between_two_loads_that_show_it(verdicts: list[str], found: list[Turn]) -> None:
    assert list(turns(verdicts)) == found

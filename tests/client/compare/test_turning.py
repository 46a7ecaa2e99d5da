from __future__ import annotations

import pytest

from client.compare.judge.turning import Turn, turns
from client.compare.judge.words import Verdict

F, S, N = Verdict.FASTER, Verdict.SLOWER, Verdict.NOT_SHOWN


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
        ([Verdict.SEEMS_FASTER, S], []),
        ([Verdict.NONE, S, N, F], [Turn(1, 3, below=False, above=False)]),
        ([], []),
    ],
)
def test_the_order_turns_between_two_loads_that_show_it(verdicts: list[Verdict], found: list[Turn]) -> None:
    assert list(turns(verdicts)) == found


def test_a_verdict_is_its_words() -> None:
    assert [one for one in Verdict if one.leans] == ["seems faster", "seems slower"]
    assert [one for one in Verdict if one.sure] == ["faster", "slower", "better", "worse"]
    assert f"{Verdict.NOT_SHOWN}; {Verdict.NONE}" == "no difference shown; no verdict: requests failed"

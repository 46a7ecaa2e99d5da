"""Tails and throughput have verdicts of their own: the median of pairs does not see them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.compare.judge.findings import differences_of
from client.compare.judge.paired import corrected
from client.compare.judge.words import Verdict
from client.load.arrivals import Closed
from client.load.judgement import in_pieces, warnings
from client.load.record import Record, Run
from tests.client.compare.factories import TOLD, record, run


def round_of(seed: int, *, stalls: float = 0.0, longer: float = 1.0) -> Run:
    """Forty requests of about 0.1 s; a share `stalls` of them takes a second more."""
    rng = np.random.default_rng(seed)
    noise = np.exp(rng.normal(0, 0.02, 40))
    rows = [record(row, 0.1 * noise[row] + (rng.random() < stalls)) for row in range(40)]
    return replace(run(rows), seconds=2.0 * longer * np.exp(rng.normal(0, 0.01)))


def verdicts(pairs: list[tuple[Run, Run]]) -> dict[str, str]:
    return {one.metric: one.verdict for one in corrected(differences_of(pairs, 0))}


def test_a_tail_is_told_where_the_median_is_the_same() -> None:
    told = verdicts([(round_of(n), round_of(100 + n, stalls=0.12)) for n in range(8)])
    assert (told["first_token"], told["total"]) == (Verdict.NOT_SHOWN, Verdict.NOT_SHOWN)
    assert (told["first_token_p95"], told["total_p95"]) == ("slower", "slower")


def closed(one: Run) -> Run:
    return replace(one, arrivals=Closed(4))


def test_throughput_has_a_verdict_where_the_server_sets_the_pace() -> None:
    pairs = [(round_of(n), round_of(100 + n, longer=1.2)) for n in range(5)]
    told = verdicts([(closed(one), closed(two)) for one, two in pairs])
    assert told == {metric: "slower" if metric == "throughput" else Verdict.NOT_SHOWN for metric in told}
    assert "throughput" in told and "throughput" not in verdicts(pairs), "what was offered is nobody's merit"


def test_tokens_of_users_who_left_were_work() -> None:
    """Every second user of one side leaves after two of three tokens."""

    def leaving(one: Run) -> Run:
        left = [replace(r, arrivals=r.arrivals[:2], facts=None, cancelled=True, may_leave=True) for r in one.records]
        return closed(replace(one, records=tuple(left[r.row] if r.row % 2 else r for r in one.records)))

    pairs = [(closed(round_of(n)), leaving(round_of(100 + n))) for n in range(5)]
    throughput = next(one for one in differences_of(pairs, 0) if one.metric == "throughput")
    assert throughput.ratio == pytest.approx(6 / 5, rel=0.03), "and not twice"


def test_who_might_have_left_makes_no_tail() -> None:
    """Where they stayed on one side and not on the other, its tail would be theirs."""

    def staying(one: Run, longer: float) -> Run:
        late = [replace(r, end=r.end + longer, may_leave=True) if r.row % 10 == 0 else r for r in one.records]
        return replace(one, records=tuple(late))

    pairs = [(staying(round_of(n), 0.0), staying(round_of(n), 5.0)) for n in range(5)]
    tail = next(one for one in differences_of(pairs, 0) if one.metric == "total_p95")
    assert tail.ratio == pytest.approx(1.0)


def test_between_pieces_is_not_between_tokens() -> None:
    """One side sends three tokens at once and does not tell their ids."""

    def lumped(one: Run) -> Run:
        return replace(one, records=tuple(replace(r, arrivals=r.arrivals[-1:]) for r in one.records))

    pairs = [(round_of(n), round_of(100 + n)) for n in range(5)]
    assert "inter_token_p99" in verdicts(pairs)
    assert not in_pieces(pairs[0][0]) and not any("pieces" in said for said in warnings(pairs[0][0]))
    assert "inter_token_p99" not in verdicts([(one, lumped(two)) for one, two in pairs])
    assert any("between pieces" in said for said in warnings(lumped(pairs[0][0])))


def test_the_token_that_ends_an_answer_needs_no_piece() -> None:
    def ended(one: Run) -> Run:
        facts = replace(TOLD, finish_reason="stop", usage=replace(TOLD.usage, completion_tokens=40))
        arrivals = tuple(0.1 + 0.01 * n for n in range(39))
        return replace(one, records=tuple(replace(r, arrivals=arrivals, facts=facts) for r in one.records))

    assert not in_pieces(ended(round_of(0)))


def test_a_round_that_lost_requests_has_no_tail() -> None:
    def losing(whole: Run) -> Run:
        return replace(whole, records=(replace(whole.records[0], error="full"), *whole.records[1:]))

    pairs = [(round_of(n), losing(round_of(100 + n, stalls=0.5)) if n else round_of(9)) for n in range(5)]
    told = verdicts([(closed(one), closed(two)) for one, two in pairs])
    assert {told["first_token_p95"], told["throughput"]} == {Verdict.NONE}


def test_who_may_leave_is_no_pair() -> None:
    """The slower side answers only its quick ones before their users leave: a third slower, and looks like a sixth."""
    rng = np.random.default_rng(1)
    times = rng.uniform(0.1, 0.6, 200)

    def side(factor: float, row: int) -> Record:
        one = replace(record(row, times[row] * factor, gap=0.0), may_leave=row % 2 == 0)
        return replace(one, cancelled=True) if one.may_leave and times[row] * factor > 0.5 else one

    pairs = [tuple(run([side(factor, row) for row in range(n, n + 40)]) for factor in (1.0, 4 / 3)) for n in range(5)]
    (first, *_) = differences_of([(one, two) for one, two in pairs], 0)
    assert first.pairs == 100 and first.lost == 0 and first.ratio == pytest.approx(4 / 3)

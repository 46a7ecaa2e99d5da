from __future__ import annotations

from dataclasses import replace

import pytest

from client.api import ModelCard
from client.compare.judge.exactness import identical
from client.compare.judge.findings import conclude
from client.compare.judge.predicted import costs
from client.compare.measure.bench import measure
from client.compare.measure.results import Results
from client.compare.plan.experiment import Architecture
from client.compare.tell.tables import level_grid
from tests.client.answers import CARD
from tests.client.compare.factories import results
from tests.client.compare.test_bench import on
from tests.client.fake_server import FakeServer


def answering(*answers: str, salts: tuple[str, str] = ("", "")) -> Results:
    """Row by row what the second architecture says; the first says "ia" to all."""
    whole = results((0.1, 0.1), repeats=2)
    for n, m in enumerate(whole.measured):
        said = answers if m.cell.architecture else ("ia",) * 4
        told = tuple(replace(r, answer=one) for r, one in zip(m.run.records, said, strict=True))
        whole.measured[n] = replace(m, run=replace(m.run, records=told, salt=salts[m.cell.architecture]))
    return whole


def test_answers_are_compared_where_they_can_be() -> None:
    whole = answering("ia", "ib", "ta", "")
    assert identical(whole, 1, 0) == (2, 4)
    rows = {row[0]: row[1:] for row in level_grid(conclude(whole), 0).rows}
    assert rows["answers the same as arch0's"] == ("–", "2 of 4")
    assert identical(answering("ia", "ia", "ia", "ia", salts=("x", "y")), 1, 0) == (0, 0)


@pytest.mark.usefixtures("fake_processes")
async def test_both_transports_answer_alike(fake: FakeServer) -> None:
    """However the answer is cut into pieces."""
    own = (Architecture("REST", "a", transport="rest"), Architecture("gRPC", "a", transport="grpc"))
    done = await measure(replace(on(fake, "a", repeats=1), architectures=own))
    assert identical(done, 1, 0) == (6, 6)
    told = [r.answer for m in done.measured for r in m.run.records]
    assert all(len(one) == 13 and one[0] == "i" for one in told)


def test_costs_are_predicted_from_the_card_beside_what_was_told() -> None:
    """Requests of 8 + 3 tokens: on average a token stands at 5.5."""
    whole = results((0.1, 0.1))
    card = {"flops_per_token": {"1024": 1000 + 1024, "32768": 1000 + 32768}}
    whole.cards = (ModelCard("arch0", **CARD, card=card), whole.cards[1])
    assert costs(whole, 0, 0).flops == pytest.approx(1005.5)
    assert costs(whole, 1, 0).flops == 0.0
    assert costs(whole, 0, 0).flops_told == pytest.approx(1000 / 7)
    rows = {row[0]: row[1:] for row in level_grid(conclude(whole), 0).rows}
    assert rows["FLOP a token, predicted from the card"] == ("1.01 k", "–")
    assert rows["cache bytes a token, predicted from the card"] == ("512", "512")
    assert rows["cache bytes a token at a request's peak"] == ("372", "372")

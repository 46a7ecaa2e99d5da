"""All architectures are scored on the same passages, those that every one of them can hold; none fails unsaid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from client.api import Client, ModelCard
from client.compare.judge.findings import conclude
from client.compare.measure import scoring
from client.compare.measure.bench import measure
from client.compare.measure.quality import PASSAGES, Quality, ScoringError, quality_from_json
from client.compare.measure.scoring import score
from client.compare.measure.sides import Side
from client.compare.tell.brief import notes
from client.compare.tell.document import document, read
from client.load.prompts import passages
from client.load.workload import Subject, WorkloadError
from tests.client.compare.test_bench import on
from tests.client.compare.test_bits import HARD, WORSE, gate, judged, quality
from tests.client.compare.test_document import kept, made
from tests.client.fake_server import FakeServer

WORDS = [len(text.split()) for text in passages()]


class Words:
    """Each word is a token."""

    async def tokenize(self, text: str, model: str = "") -> tuple[int, ...]:
        return tuple(range(len(text.split())))


def side(context: int, http: str = "http://x") -> Side:
    return Side(Subject(cast("Client", Words()), ModelCard("m", context=context)), http)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The passages that each was asked about."""
    asked = []

    async def told(target: str, model: str, places: Sequence[int], bounds: object) -> Quality:
        asked.append(list(places))
        return replace(quality(*HARD), left_out=(0, 2))

    monkeypatch.setattr(scoring, "quality", told)
    return asked


async def test_a_passage_too_long_for_one_is_left_out_for_all(scored: list[list[int]]) -> None:
    found, unscored = await score([side(2048), side(80), side(0)], (0, 1, 2), ())
    fitting = [place for place, words in enumerate(WORDS) if words <= 80]
    assert scored == [fitting] * 3 and 0 < len(fitting) < PASSAGES
    assert all(found) and unscored == ("", "", "")


async def test_who_is_not_asked_leaves_nothing_out_and_has_no_reason(scored: list[list[int]]) -> None:
    found, unscored = await score([side(2048), side(80), side(8, http="")], (0, 2), ())
    assert scored == [list(range(PASSAGES))]
    assert [one is not None for one in found] == [True, False, False]
    assert unscored == ("", "", "text is scored over REST, and only its gRPC address is known")


async def test_where_no_passage_fits_nobody_is_scored(scored: list[list[int]]) -> None:
    found, unscored = await score([side(2048), side(8)], (0, 1), ())
    assert not scored and found == (None, None)
    assert set(unscored) == {"no passage fits the context of every model"}


async def test_why_one_was_not_scored_is_a_note(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(target: str, model: str, places: object, bounds: object) -> Quality:
        raise ScoringError("the prompt is too long")

    monkeypatch.setattr(scoring, "quality", refused)
    whole = await measure(on(fake, "a", "b", quality=()))
    assert whole.unscored == ("the prompt is too long",) * 2
    assert "every architecture: not scored: the prompt is too long" in notes(conclude(whole))


async def test_texts_beyond_the_context_are_refused_before_anything_is_measured(fake: FakeServer) -> None:
    with pytest.raises(WorkloadError, match="a: model a holds 256 tokens; quality asks for texts of 257"):
        await measure(on(fake, "a", "b", quality=(128, 257)))
    assert not fake.seen


def test_how_many_passages_were_scored_is_told_and_read_back(tmp_path: Path) -> None:
    whole = made()
    some = replace(quality(*HARD), left_out=(1, 5))
    whole.qualities, whole.unscored = (some, None), ("", "out of memory")
    assert some.places == [0, 2, 3, 4]
    again = read(kept(whole, tmp_path))
    assert (again.qualities, again.unscored) == (whole.qualities, whole.unscored)
    told = notes(conclude(again))
    name = again.names[1]
    assert f"{name}: not scored: out of memory" in told
    assert any(one.startswith("bits per byte are of 4 of 6 passages: the others are longer") for one in told)
    assert not any("passages" in one for one in notes(conclude(judged(quality(*HARD)))))
    assert document(conclude(whole))["unscored"] == ["", "out of memory"]
    assert quality_from_json({"bits_per_byte": 1.5, "bytes": 100, "passages": 12}).left_out == ()


def test_the_gate_pairs_passages_by_their_place() -> None:
    """Now without the first, and otherwise the same."""
    now = replace(quality(*HARD[1:]), left_out=(0,))
    assert gate(quality(*HARD), now) == (False, ())
    worse = replace(quality(*WORSE[1:]), left_out=(0,))
    assert gate(quality(*HARD), worse)[0] or gate(quality(*HARD), worse)[1]
    assert quality(*HARD).among((1, 3)).places == [1, 3]
    assert quality(*HARD).among((9,)) == quality(*HARD)

"""What differs between architectures is said in words, and nothing of what does not."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from client.compare.judge.findings import conclude
from client.compare.measure.results import Results
from client.compare.plan.experiment import Architecture
from client.compare.tell.page import page
from client.compare.tell.report import markdown, view
from client.compare.tell.tables import grids, makeup_grid
from tests.client.compare.factories import results

FULL = {"layers": "6", "sees": "everything before", "block": "RMS norm before each branch", "experts": ""}
WINDOWS = FULL | {"sees": "the last 64 (5 layers); everything before (1 layers)", "experts": "2 of 8"}
SEES = ("what a layer sees", FULL["sees"], WINDOWS["sees"])


def described(*words: dict[str, str] | None) -> Results:
    """Of servers that tell these words; None: no card."""
    made = results((0.1,) * len(words))
    cards = zip(made.cards, words, strict=True)
    made.cards = tuple(replace(card, card={} if told is None else {"description": told}) for card, told in cards)
    return made


def served(*architectures: Architecture) -> Results:
    made = described(*(FULL for _ in architectures))
    made.experiment = replace(made.experiment, architectures=architectures)
    return made


def rows(made: Results) -> tuple[tuple[str, ...], ...]:
    return makeup_grid(conclude(made)).rows


def test_what_layers_see_and_what_they_are_made_of() -> None:
    assert rows(described(FULL, WINDOWS)) == (SEES, ("experts", "–", "2 of 8"))
    deeper = FULL | {"layers": "12", "block": "RMS norm after"}
    assert [row[0] for row in rows(described(FULL, deeper))] == ["layers", "norms"]


def test_a_server_without_a_card_is_no_difference() -> None:
    assert rows(described(FULL, None)) == () == rows(described(None, None))
    assert rows(described(FULL, None, WINDOWS))[0] == (*SEES[:2], "–", SEES[2])


def test_how_they_are_served() -> None:
    plain = Architecture("a", "m")
    assert rows(served(plain, replace(plain, name="b", flags=("--weights", "int8"), transport="grpc"))) == (
        ("transport", "rest", "grpc"),
        ("flags of its server", "–", "--weights int8"),
    )
    assert rows(served(plain, Architecture("b", target="http://x"))) == ()
    assert rows(served(plain, Architecture("b", target="grpc://x"))) == (("transport", "rest", "grpc"),)
    assert rows(served(replace(plain, scale="tiny"), plain)) == (("scale", "tiny", "–"),)


def test_the_table_is_there_where_it_has_rows() -> None:
    unlike, alike = conclude(described(FULL, WINDOWS)), conclude(described(FULL, FULL))
    title, console = "What differs between the architectures", Console(width=120, record=True, file=StringIO())
    console.print(view(unlike))
    assert grids(unlike)[1].title == title and not any(grid.title == title for grid in grids(alike))
    for said in (markdown(unlike), page(unlike), console.export_text()):
        assert title in said and WINDOWS["sees"] in said
    narrow = Console(width=70, record=True, file=StringIO())
    narrow.print(view(unlike))
    assert f"what a layer sees:\n  arch0: {FULL['sees']}\n  arch1: {WINDOWS['sees']}\n" in narrow.export_text()
    assert title not in markdown(alike) + page(alike)
    assert page(unlike).count('<table class="words">') == 1

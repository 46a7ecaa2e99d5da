"""The pages made from the contract are those of the contract, and lead where they say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.reference.pages import DOCS, pages
from tests.reference.rest import anchor

NAMES = ("openapi.json", "rest.md", "grpc.md")
WRITTEN = sorted([*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")])


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_up_to_date(made: dict[str, str], name: str) -> None:
    assert made.keys() == set(NAMES)
    assert (DOCS / name).read_text() == made[name], "run `make docs`"


def prose(page: Path) -> str:
    """Without what stands between fences."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path) -> Counter[str]:
    return Counter(anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE))


@pytest.mark.parametrize("name", ["rest.md", "grpc.md", "clients.md"])
def test_no_two_headings_of_a_page_are_alike(name: str) -> None:
    assert [heading for heading, count in headings(DOCS / name).items() if count > 1] == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, heading = link.partition("#")
        there = page.parent / path if path else page
        if not link.startswith("http"):
            assert there.exists(), link
            assert not heading or heading in headings(there), link


def test_the_pages_tell_of_every_call(made: dict[str, str]) -> None:
    assert made["grpc.md"].count("| `StreamGenerate` | ") == 1 and made["grpc.md"].count("| `Drain` | ") == 1
    assert "### POST /v1/chat/completions" in made["rest.md"] and "### POST /admin/v1/drain" in made["rest.md"]

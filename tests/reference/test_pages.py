"""The pages made from the contract are those of the contract, and lead where they say."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.reference.pages import DOCS, pages
from tests.reference.rest import anchor

NAMES = ("openapi.json", "rest.md", "grpc.md")


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_up_to_date(made: dict[str, str], name: str) -> None:
    assert made.keys() == set(NAMES)
    assert (DOCS / name).read_text() == made[name], "run `make docs`"


@pytest.mark.parametrize("name", ["rest.md", "grpc.md", "clients.md"])
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    text = (DOCS / name).read_text()
    headings = Counter(anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    assert [heading for heading, count in headings.items() if count > 1] == []
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif not link.startswith("http"):
            assert (DOCS / link).exists(), link


def test_the_pages_tell_of_every_call(made: dict[str, str]) -> None:
    assert made["grpc.md"].count("| `StreamGenerate` | ") == 1 and made["grpc.md"].count("| `Drain` | ") == 1
    assert "### POST /v1/chat/completions" in made["rest.md"] and "### POST /admin/v1/drain" in made["rest.md"]

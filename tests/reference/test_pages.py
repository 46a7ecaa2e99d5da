"""The pages made from the contract are those of the contract, and lead where they say."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from model import config, schema
from model.codec import load_architecture
from tests.reference import architectures
from tests.reference.pages import DOCS, pages
from tests.reference.rest import anchor

NAMES = ("openapi.json", "rest.md", "grpc.md", "architectures.md")
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


@pytest.mark.parametrize("name", ["rest.md", "grpc.md", "architectures.md", "clients.md"])
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


def test_the_page_of_architectures_has_every_value_and_key() -> None:
    page, told = (DOCS / "architectures.md").read_text(), architectures.reached()
    values = {kind for kind in vars(config).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
    assert values == set(told)
    for kind in [*told, *architectures.TABLES]:
        for key in schema.keys(kind):
            assert f"\n| `{key}` | " in page, key
    for row in (
        '| `placement` | `pre`, `post`, `output` or `sandwich` | `"pre"` | |',
        '| `span` | [full](#full), [window](#window) or [chunk](#chunk) | `{ type = "full" }` | |',
        '| `softcap` | number or `"none"` | `"none"` | > 0 |',
        "| `spare` | whole number | `0` | ≥ 0 |",
        "| `fraction` | number | `1.0` | in (0, 1] |",
        "| `jitter` | number | `0.0` | 0 to 1 |",
        "| `seed` | whole number | `0` | 0 to 2,147,483,647 |",
        "| `layers` | a pattern, or a list of them | required | |",
    ):
        assert row in page, row
    assert '`type = "feed_forward"` at `branches` of [block](#block); at `expert` of [moe](#moe)' in page
    assert "Errors: kv=… does not divide query=….\n" in page


def test_the_example_of_the_page_of_architectures_is_one(tmp_path: Path) -> None:
    [example] = re.findall(r"^```toml\n(.*?)^```", architectures.INTRODUCTION, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.toml").write_text(example)
    assert len(load_architecture(tmp_path / "mine.toml").blocks) == 13
    assert tomllib.loads(example)["layers"] == "dense (local*2 global)*4"

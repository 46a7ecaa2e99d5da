from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from client.api import ModelCard
from client.facts import TokenRouting, facts_from_json
from client.show import facts_view, models_table, printable
from client.units import bar, counted, milliseconds, percent, plain, sparks
from tests.client.answers import CARD, facts


def drawn(view: RenderableType) -> str:
    console = Console(width=100, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_the_facts_of_a_request_are_all_there() -> None:
    screen = drawn(facts_view(facts_from_json(facts(10, 4))))
    usage = ("10 prompt tokens (2 cached), 4 generated", "ended by length", "3 of 4 guessed tokens were right")
    for said in (*usage, "Routing of 2 tokens", "0.75", "█▃··"):
        assert said in screen
    assert [line.split()[:2] for line in screen.splitlines() if line.startswith(("queued", "prefill", "decode"))] == [
        ["queued", "1.00"],
        ["prefill", "2.00"],
        ["decode", "30.0"],
    ]
    assert "4.00 for neighbours' prompts while decoding" in screen and "without a place" not in screen
    for part, count in (("projections", "600"), ("experts", "200"), ("head", "80")):
        assert any(line.split()[:2] == [part, count] for line in screen.splitlines())
    assert "feed-forward" not in screen, "nothing was computed there"
    assert "3.00 MB  of weights, 2.05 kB of cache read, 512 B written" in screen
    assert "7 tokens, 900" in screen


def test_what_a_server_does_not_tell_is_left_out() -> None:
    bare = replace(facts_from_json(facts(10, 4)), latency=None, cache=None, steps=None, routing=None, compute=None)
    assert drawn(facts_view(bare)).strip() == "10 prompt tokens (2 cached), 4 generated, ended by length"


def test_every_tokens_first_expert_has_a_letter() -> None:
    told = facts_from_json(facts(10, 4))
    assert told.routing is not None
    ids = b"".join(n.to_bytes(2, "little", signed=True) for n in (3, 0, 11, 1, -1, 2, 40, 0))
    told = replace(told, routing=replace(told.routing, token_routing=TokenRouting(ids, 4, 1, 2)))
    assert "    1  3b!+" in drawn(facts_view(told))


def test_a_model_cannot_steer_the_terminal() -> None:
    assert printable("a\tb\n\x1b[31mred\x07é") == "a\tb\n\ufffd[31mred\ufffdé"


def test_models_have_one_row_each() -> None:
    screen = drawn(models_table((ModelCard("tales", **CARD), ModelCard("other"))))
    assert "2.00 M" in screen
    assert "grouped-query, rotary, 2 of 4 experts, float32, chat" in screen.replace("\n", "")
    assert screen.splitlines()[-1].split() == ["other", "–", "–", "–", "–", "–"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234"), (0, "0"), (None, "–")]
)
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert plain(value) == text


def test_units() -> None:
    assert (milliseconds(0.0123), milliseconds(None), milliseconds(float("nan"))) == ("12.3", "–", "–")
    assert (counted(0), counted(999), counted(4_590_848), counted(2 * 10**9)) == ("–", "999", "4.59 M", "2.00 G")
    assert (percent(0.256), percent(float("nan"))) == ("26%", "–")


def test_bars_and_sparks() -> None:
    assert bar(0.5, 4) == "██  "
    assert bar(0.53125, 4) == "██▏ "
    assert bar(7.0, 2) == "██"
    assert sparks((0, 1, 8)) == "·▁█"
    assert sparks(()) == ""

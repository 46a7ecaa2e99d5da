"""Stop strings: whatever the cut into tokens, the text shown is the text before the first one."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import example, given

from model.tokenizer import ByteTokenizer
from server.text import StopString, StopText, VisibleText

TEXTS = st.text(alphabet="abé🐻", max_size=30)
STOPS = st.lists(st.text(alphabet="abé🐻", min_size=1, max_size=5), min_size=1, max_size=4)


def cut(text: str, stops: list[str]) -> tuple[str, int | None]:
    """(what may be shown, bytes until the first stop string is complete): read off the whole text, the slow way."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], len(text[:end].encode())
    return text, None


@given(TEXTS, STOPS)
@example("aab", ["ab"])
@example("aaab", ["aab", "b"])
@example("ababab", ["abab", "b"])
def test_byte_by_byte_the_visible_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    visible, stop = VisibleText(ByteTokenizer().stream(), stops), StopString(ByteTokenizer().stream(), stops)
    expected, end = cut(text, stops)
    shown = ""
    for count, token in enumerate(text.encode(), 1):
        shown += visible.push(token)
        assert expected.startswith(shown), "nothing that would have to be taken back"
        stopped = stop.push(token)
        assert stopped == visible.stopped == (count == end)
        if stopped:
            break
    assert shown + ("" if visible.stopped else visible.flush()) == expected


@given(TEXTS, STOPS)
def test_no_more_is_held_back_than_could_begin_a_stop_string(text: str, stops: list[str]) -> None:
    scan, shown = StopText(stops), ""
    for count, character in enumerate(text, 1):
        shown += scan.push(character)
        if scan.found:
            break
        assert count - len(shown) <= max(map(len, stops)) - 1


@given(TEXTS, STOPS, st.integers(0, 20))
def test_nothing_in_the_free_tokens_counts(text: str, stops: list[str], free: int) -> None:
    raw = text.encode()
    visible = VisibleText(ByteTokenizer().stream(), stops, free)
    stop = StopString(ByteTokenizer().stream(), stops, free)
    for token in raw[:free]:
        visible.push(token)
        assert not stop.push(token) and not visible.stopped


def test_several_tokens_in_one_piece_are_cut_too() -> None:
    scan = StopText(["END"])
    assert [scan.push("the E"), scan.push("Earl"), scan.push(" says END of"), scan.push("more")] == [
        "the ",
        "EEarl",
        " says ",
        "",
    ]
    assert scan.flush() == ""


def test_half_a_character_at_the_end_is_one_replacement() -> None:
    visible = VisibleText(ByteTokenizer().stream(), ["x"])
    assert [visible.push(b) for b in "é".encode()[:1]] == [""]
    assert visible.flush() == "\ufffd"

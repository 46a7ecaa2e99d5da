from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from client.sse import EventParser

STREAM = b': ping\n\ndata: {"text":"a\xe2\x80\xa8b"}\r\n\r\nevent: x\ndata:one\ndata: two\n\n\ndata: [DONE]\n\n'
EVENTS = [b'{"text":"a\xe2\x80\xa8b"}', b"one\ntwo", b"[DONE]"]


def test_comments_fields_and_line_ends() -> None:
    assert EventParser().feed(STREAM) == EVENTS


def test_an_event_without_its_empty_line_is_not_whole() -> None:
    assert EventParser().feed(b"data: half") == []
    assert EventParser().feed(b"data: half\n") == []


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_where_the_chunks_are_cut_does_not_matter(cuts: list[int]) -> None:
    parser = EventParser()
    edges = [0, *sorted(cuts), len(STREAM)]
    found = [e for a, b in pairwise(edges) for e in parser.feed(STREAM[a:b])]
    assert found == EVENTS

"""How events reach the wire: those that are there together in one write, and never more than so many bytes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.errors import InternalError, ServiceError
from server.transport.rest import answer
from server.transport.rest.answer import GenerationAnswer


class Script:
    """A generation that gives these pieces; after those that end with "+" the next is there at once."""

    def __init__(self, *pieces: str, error: ServiceError | None = None) -> None:
        self.scripted, self.error, self.goes_on = pieces, error, False

    async def pieces(self) -> AsyncIterator[str]:
        for piece in self.scripted:
            self.goes_on = piece.endswith("+")
            yield piece
        if self.error is not None:
            raise self.error


class Plain:
    """A writer whose events are the pieces themselves."""

    def event(self, piece: str) -> bytes:
        return piece.encode()

    def end(self) -> bytes:
        return b"[end]"

    def error(self, error: ServiceError) -> bytes:
        return b"[error]"


async def writes(script: Script) -> list[bytes]:
    """The bodies that are sent, behind exactly one head."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await GenerationAnswer._stream(object.__new__(GenerationAnswer), script, Plain(), send)  # type: ignore[arg-type]
    head, *bodies = sent
    assert head["type"] == "http.response.start"
    assert [body["more_body"] for body in bodies] == [True] * (len(bodies) - 1) + [False]
    return [body["body"] for body in bodies]


async def test_a_reader_that_keeps_up_gets_every_event_when_it_comes() -> None:
    assert await writes(Script("a", "b", "c")) == [b"a", b"b", b"c", b"[end]"]


async def test_what_has_piled_up_goes_out_in_one_write_and_loses_nothing() -> None:
    assert await writes(Script("a", "b+", "c+", "d", "e")) == [b"a", b"b+c+d", b"e", b"[end]"]


async def test_the_last_event_and_the_end_go_out_together() -> None:
    assert await writes(Script("a", "b+")) == [b"a", b"b+[end]"]
    assert await writes(Script("a+")) == [b"a+[end]"]


async def test_an_error_stands_behind_the_events_that_were_there() -> None:
    assert await writes(Script("a", "b+", error=InternalError("id"))) == [b"a", b"b+[error]"]


async def test_an_error_before_anything_was_sent_is_raised() -> None:
    with pytest.raises(InternalError):
        await writes(Script("a+", error=InternalError("id")))


async def test_no_write_grows_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "MOST_HELD", 4)
    assert await writes(Script("a+", "b+", "c+", "d+", "e")) == [b"a+b+", b"c+d+", b"e", b"[end]"]

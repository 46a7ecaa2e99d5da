"""What an answer counts as: the code that its caller saw, or what became of it."""

from __future__ import annotations

import time

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.tally import UNKNOWN, Door, DoorTally
from server.transport.rest.middleware import Outermost
from server.transport.stall import WriteStalled


@pytest.mark.parametrize(
    ("status", "bodies", "error", "code"),
    [
        (200, [True, False], None, "200"),
        (404, [False], None, "404"),
        (None, [], None, "499"),
        (200, [True], None, "499"),
        (200, [True], WriteStalled("nobody reads"), "499"),
        (500, [False], ConnectionResetError("a body that did not come"), "499"),
        (200, [True], RuntimeError("a bug"), "500"),
        (500, [False], RuntimeError("a bug, and it was told"), "500"),
    ],
    ids=["stream", "whole", "left before", "left", "unread", "left while it asked", "cut off", "failed"],
)
async def test_an_answer_counts_as_what_became_of_it(
    status: int | None, bodies: list[bool], error: Exception | None, code: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if status is not None:
            await send({"type": "http.response.start", "status": status, "headers": []})
        for more in bodies:
            await send({"type": "http.response.body", "body": b"x", "more_body": more})
        if error is not None:
            raise error

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    told = DoorTally()
    outermost = Outermost(app, Door(told, "rest"), time.monotonic, 10.0, lambda: False)
    await outermost({"type": "http", "headers": []}, receive, send)
    assert told.answers == {("rest", UNKNOWN, code): 1}
    assert told.open == {"rest": 0, "grpc": 0}
    assert told.bytes["rest", "sent"] == len(bodies)

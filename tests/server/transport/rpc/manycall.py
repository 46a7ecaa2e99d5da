"""One GenerateMany call as its caller sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.server.callers import Refused, end_refused, rpc_refused, rpc_request


@dataclass
class Heard:
    """What came of one request."""

    text: dict[int, str] = field(default_factory=dict)  # by choice
    tokens: int = 0
    finished: int = 0
    ids: set[str] = field(default_factory=set)
    end: pb.GenerateEnd | None = None

    @property
    def kind(self) -> str:
        """How it ended, in words."""
        assert self.end is not None
        return end_refused(self.end, begun=False).kind if self.end.code else "whole"


class Session:
    """One call and what came of each of its requests."""

    def __init__(self, channel: grpc.aio.Channel, **options: Any) -> None:
        self.call = InferenceServiceStub(channel).GenerateMany(**options)
        self.heard: dict[int, Heard] = {}
        self.messages = self.events = 0
        self.sizes: list[tuple[int, int]] = []  # events and bytes of every message

    async def start(self, tag: int, **wish: Any) -> None:
        """`wish` may have the proto's request_id and traceparent as well."""
        beside = {name: wish.get(name) for name in ("request_id", "traceparent")}
        beside["timeout_seconds"] = wish.get("seconds")
        start = pb.GenerateStart(request=rpc_request(wish), **beside)
        self.heard[tag] = Heard()
        await self.do(pb.GenerateAction(tag=tag, start=start))

    async def cancel(self, tag: int) -> None:
        await self.do(pb.GenerateAction(tag=tag, cancel=pb.GenerateCancel()))

    async def do(self, *actions: pb.GenerateAction) -> None:
        await self.call.write(pb.GenerateManyRequest(actions=actions))

    async def read(self) -> bool:
        """Take in a message; False for the end of the call."""
        message = await self.call.read()
        if message is grpc.aio.EOF:
            return False
        self.messages += 1
        self.sizes.append((len(message.events), message.ByteSize()))
        for event in message.events:
            self.events += 1
            self._take(self.heard[event.tag], event)
        return True

    async def until_ended(self, *tags: int) -> None:
        async with asyncio.timeout(20):
            while any(self.heard[tag].end is None for tag in tags):
                assert await self.read(), "the call ended first"

    async def rest(self) -> dict[int, Heard]:
        """Say the last and take in what is left."""
        await self.call.done_writing()
        async with asyncio.timeout(20):
            while await self.read():
                pass
        assert await self.call.code() is grpc.StatusCode.OK
        return self.heard

    async def refusal(self) -> Refused:
        """The error that ends the call."""
        with pytest.raises(grpc.aio.AioRpcError) as said:
            async with asyncio.timeout(20):
                while await self.read():
                    pass
        return rpc_refused(said.value, begun=False)

    @staticmethod
    def _take(heard: Heard, event: pb.GenerateEvent) -> None:
        assert heard.end is None, "nothing follows the end"
        if event.HasField("end"):
            heard.end = event.end
            return
        piece = event.piece
        heard.ids.add(piece.id)
        heard.text[piece.index] = heard.text.get(piece.index, "") + piece.text
        heard.tokens += len(piece.tokens)
        heard.finished += piece.HasField("finished")


@asynccontextmanager
async def session(channel: grpc.aio.Channel, **options: Any) -> AsyncIterator[Session]:
    made = Session(channel, **options)
    try:
        yield made
    finally:
        made.call.cancel()

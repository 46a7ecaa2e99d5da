"""What is around every call that a servicer of ours answers: an id, a status for what goes wrong, a count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc

from server.calllog import Who
from server.errors import ServiceError
from server.tally import Door
from server.tenancy import EVERYBODY
from server.transport.faults import internal_error
from server.transport.ids import given_id, new_id
from server.transport.rpc.caller import caller
from server.transport.rpc.errors import SlowReader, abort, status_of
from server.transport.stall import WriteStalled

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Details: TypeAlias = grpc.HandlerCallDetails


class Answer:
    """What a call is told: first of all its id, as late as may be. A call that fails without initial metadata is
    answered with trailers alone, and only such a one is tried again by a client's retry policy (gRFC A6)."""

    def __init__(self, context: Context) -> None:
        self.id = new_id()
        self._given_id = given_id(metadata(context, "x-request-id"))
        self.told_id = self._given_id or self.id
        self._context = context
        self._begun = False

    @property
    def who(self) -> Who:
        return Who(self.id, self._given_id, caller.get(EVERYBODY).name, peer(self._context))

    async def begin(self) -> None:
        """Send the initial metadata, unless that is done."""
        if not self._begun:
            self._begun = True
            await self._context.send_initial_metadata((("x-request-id", self.told_id),))

    def write(self, message: Any) -> Awaitable[None]:
        """Send a message of a stream."""
        return self._context.write(message) if self._begun else self._write_first(message)

    async def _write_first(self, message: Any) -> None:
        await self.begin()
        await self._context.write(message)


@asynccontextmanager
async def answering(
    context: Context, door: Door, method: str, *, early: bool = False, flat: bool = False
) -> AsyncIterator[Answer]:
    """Gives the call an id, turns what goes wrong inside into a status, and counts it. `early`: its caller waits for
    the initial metadata before it says anything; `flat`: as `abort` has it."""
    answer, code = Answer(context), grpc.StatusCode.OK
    door.opened()
    try:
        if early:
            await answer.begin()
        yield answer
        await answer.begin()
    except ServiceError as error:
        code = status_of(error)
        await abort(context, error, answer.id, answer.told_id, flat=flat)
    except asyncio.CancelledError:
        code = _hung_up(context)
        raise
    except grpc.aio.InternalError:  # what was to be sent has nobody left to go to
        code = _hung_up(context)
        raise asyncio.CancelledError from None
    except WriteStalled as stalled:
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        await abort(context, SlowReader(str(stalled)), answer.id, answer.told_id)
    except Exception as error:
        code = grpc.StatusCode.INTERNAL
        await abort(context, internal_error(answer.id, error), answer.id, answer.told_id)
    finally:
        door.closed()
        door.answered(method, code.name, answer.who)


def metadata(context: Context, name: str) -> str | None:
    """What a caller sent under a name; None for nothing."""
    given = dict(context.invocation_metadata() or ()).get(name)
    return given if isinstance(given, str) else None


def peer(context: Context) -> str:
    """Where a call comes from, as REST has it; the library writes ipv6:%5B::1%5D:50051."""
    return unquote(context.peer()).partition(":")[2]


def label(method: str) -> str:
    """A method's name in the metrics: of our own service alone, of others with their service's."""
    service, _, name = method.removeprefix("/").partition("/")
    last = service.rpartition(".")[2]
    return name if last == "InferenceService" else f"{last}/{name}"


def _hung_up(context: Context) -> grpc.StatusCode:
    """Why gRPC cancelled the handler: the caller's time is over, or the caller is."""
    remaining = context.time_remaining()
    late = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED

"""What is around every call that a servicer of ours answers: an id, a status for what goes wrong, a count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc

from server.errors import ServiceError
from server.transport.rpc.errors import SlowReader, abort, internal_error, status_of
from server.transport.stall import WriteStalled
from server.transport.watch import TransportObserver, new_id, told_id

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@asynccontextmanager
async def answering(
    context: Context, observer: TransportObserver, method: str, *, flat: bool = False
) -> AsyncIterator[str]:
    """Gives the call an id, turns what goes wrong inside into a status, and counts it. `flat`: as `abort` has it."""
    id, code = new_id(), grpc.StatusCode.OK
    observer.opened("grpc")
    try:
        await context.send_initial_metadata((("x-request-id", told_id(metadata(context, "x-request-id"), id)),))
        yield id
    except ServiceError as error:
        code = status_of(error)
        await abort(context, error, id, flat=flat)
    except asyncio.CancelledError:
        code = _hung_up(context)
        raise
    except grpc.aio.InternalError:  # what was to be sent has nobody left to go to
        code = _hung_up(context)
        raise asyncio.CancelledError from None
    except WriteStalled as stalled:
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        await abort(context, SlowReader(str(stalled)), id)
    except Exception as error:
        code = grpc.StatusCode.INTERNAL
        await abort(context, internal_error(id, error), id)
    finally:
        observer.closed("grpc")
        observer.answered("grpc", method, code.name)


def metadata(context: Context, name: str) -> str | None:
    """What a caller sent under a name; None for nothing."""
    given = dict(context.invocation_metadata() or ()).get(name)
    return given if isinstance(given, str) else None


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

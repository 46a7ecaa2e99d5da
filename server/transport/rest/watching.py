"""GET /v1/routing: the live load of a model's experts as server-sent events."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.errors import InvalidValue, ServiceError, UnknownField, shown
from server.transport.rest import sse
from server.transport.rest.answer import part, start, while_connected
from server.transport.rest.writers import Writer
from server.watching import RoutingWatch

FIELDS = ("model", "interval")


def routing_stream(request: Request, watch: RoutingWatch) -> Response:
    """The stream that the query asks for: model=NAME, interval=SECONDS. Raises InvalidRequest."""
    given = request.query_params.multi_items()
    for name, _ in given:
        if name not in FIELDS:
            raise UnknownField(name)
    if len(dict(given)) < len(given):
        raise InvalidValue("model and interval may each be given once", param="interval")
    query = dict(given)
    return RoutingStream(watch, query.get("model") or None, _seconds(query.get("interval")))


class RoutingStream(Response):
    """One event each interval; [DONE] when the server drains or the model is unloaded, an error when nothing runs."""

    def __init__(self, watch: RoutingWatch, model: str | None, interval: float | None) -> None:
        super().__init__()
        self._watch, self._model, self._interval = watch, model, interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._run(send))

    async def _run(self, send: Send) -> None:
        async with self._watch.loads(self._model, self._interval) as loads:
            await send(start(sse.HEADERS))
            try:
                async for load in loads:
                    await send(part(sse.event(load)))
                last = sse.DONE
            except ServiceError as error:
                last = Writer.error(error)
        await send(part(last, more=False))


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text[:64])
    except ValueError:
        raise InvalidValue(f"interval must be a number of seconds, got {shown(text)}", param="interval") from None

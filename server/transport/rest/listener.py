"""The HTTP server around the REST application."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from server.limits import Limits
from server.transport.listening import AddressInUse
from server.transport.rest.wire import guarded
from server.transport.watch import App, TransportObserver

KEEP_ALIVE_SECONDS = 65  # longer than the pools of usual clients and proxies keep theirs
BACKLOG = 2048


class SignalFreeServer(uvicorn.Server):
    """Leaves signals to the process: uvicorn would raise them again after its own end, before ours."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpListener:
    """Made, started and stopped on one event loop."""

    def __init__(self, app: App, limits: Limits, observer: TransportObserver) -> None:
        self._config = uvicorn.Config(
            app,
            http=guarded(limits, observer),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._server = SignalFreeServer(self._config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises AddressInUse."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError:
            raise AddressInUse("REST", host, port) from None
        self._serving = asyncio.create_task(self._server.serve([listening]))
        await self._server.listening.wait()
        return int(listening.getsockname()[1])

    async def stop(self, grace: float) -> None:
        """Take no new connections; cut those that are busy after `grace` seconds."""
        if self._serving is not None:
            self._config.timeout_graceful_shutdown = grace  # type: ignore[assignment]
            self._server.should_exit = True
            await self._serving

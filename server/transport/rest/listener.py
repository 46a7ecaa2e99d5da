"""The HTTP server around the REST application."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from server.limits import Limits
from server.tally import Door
from server.transport.listening import AddressInUse
from server.transport.rest.wire import guarded
from server.transport.tls import Identity

KEEP_ALIVE_SECONDS = 65  # longer than the pools of usual clients and proxies keep theirs
BACKLOG = 2048
DATE_SECONDS = 1.0


class SignalFreeServer(uvicorn.Server):
    """Leaves signals to the process: uvicorn would raise them again after its own end, before ours."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None, handshake_seconds: float) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.ending = asyncio.Event()
        self._tls = tls
        self._handshake_seconds = handshake_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, but a handshake has less than its minute."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        seconds = None if self._tls is None else self._handshake_seconds
        self.servers = [
            await loop.create_server(
                self._protocol, sock=sock, ssl=self._tls, ssl_handshake_timeout=seconds, backlog=BACKLOG
            )
            for sock in sockets or ()
        ]
        self.started = True
        self.listening.set()

    async def main_loop(self) -> None:
        """Wakes once a second, for the date in the head of answers; uvicorn looks ten times as often for the end."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), DATE_SECONDS)

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpListener:
    """Made, started and stopped on one event loop."""

    def __init__(self, app: ASGIApp, limits: Limits, door: Door, identity: Identity | None = None) -> None:
        """`identity` None: in the clear."""
        self._config = uvicorn.Config(
            app,
            http=guarded(limits, door),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        context = None if identity is None else identity.context
        self._server = SignalFreeServer(self._config, context, limits.head_seconds)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises AddressInUse."""
        try:
            listening = _listening(host, port)
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
            self._server.ending.set()
            await self._serving


def _listening(host: str, port: int) -> socket.socket:
    """A socket that says it is TCP, and so do those that it accepts: asyncio switches Nagle's delay off for no other,
    and with it an answer on a connection that is used again waits for the acknowledgement of the one before."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.create_server((host, port), family=family, backlog=BACKLOG)
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=made.detach())

"""The gRPC server: the service, health, reflection, and its bounds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dyno.admin.v1 import admin_pb2
from dyno.admin.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from server import process
from server.administration.administration import Administration
from server.limits import Limits
from server.service import GenerationService
from server.tally import Door
from server.transport.auth.access import Authoriser
from server.transport.listening import AddressInUse
from server.transport.rpc.admin import AdminServicer
from server.transport.rpc.authorisation import Authorisation
from server.transport.rpc.gate import Gate
from server.transport.rpc.health import HealthServicer
from server.transport.rpc.servicer import Servicer
from server.transport.tls import Identity, Material

SERVICE: str = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name
ADMIN: str = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
MOST_PENDING = 1 << 30  # calls that the library holds before we see them: what connections and their streams allow
IDLE_MS = 300_000  # a connection without calls is closed; its client opens another when it has one
PING_MS = 5_000  # clients may ping this often; many do every 10 s, some of them a little early
UNTIL_STOPPED = 86_400.0  # seconds: `stop` comes long before
IDENTITY_ONLY = 1  # bit set of the compressions that are understood


class RpcListener:
    """Made, started and stopped on one event loop. Health is NOT_SERVING until `tell_health`."""

    def __init__(
        self,
        service: GenerationService,
        administration: Administration,
        door: Door,
        authoriser: Authoriser,
        *,
        reflects: bool,
        connection_seconds: float | None = None,
        identity: Identity | None = None,
    ) -> None:
        """`connection_seconds`: age at which a connection is asked to be made anew; `identity` None: in the clear."""
        self._identity = identity
        with process.patient_threads():  # those of the library, which wake for every message that the event loop writes
            self._server = grpc.aio.server(
                interceptors=(Authorisation(authoriser, door), Gate(door)),
                options=channel_options(service.limits, connection_seconds),
                compression=grpc.Compression.NoCompression,
            )
        self._health = HealthServicer([SERVICE, ADMIN], service.limits.retry_after_seconds)
        self._leaving: asyncio.Task[None] | None = None
        add_InferenceServiceServicer_to_server(Servicer(service, door), self._server)
        add_AdminServiceServicer_to_server(AdminServicer(administration, door), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflects:
            names = (SERVICE, ADMIN, HEALTH, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises AddressInUse."""
        _check_free(host, port)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._identity is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, _credentials(self._identity))
        except RuntimeError:
            raise AddressInUse("gRPC", host, port) from None
        await self._server.start()
        return port

    def tell_health(self, serving: bool, models: Mapping[str, bool]) -> None:
        """What the health service says from now on: of the whole, and of each model."""
        self._health.tell(serving, models)

    def leave(self) -> None:
        """Close the port and ask the clients to go elsewhere (GOAWAY). Calls in flight go on; `stop` follows."""
        self._leaving = asyncio.create_task(self._server.stop(UNTIL_STOPPED))

    async def stop(self, grace: float) -> None:
        """Refuse new calls; cut those that are left after `grace` seconds."""
        await self._server.stop(grace)
        if self._leaving is not None:
            await self._leaving


def _check_free(host: str, port: int) -> None:
    """Try the port with a socket of our own first: the library, refused, writes to stderr itself."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        raise AddressInUse("gRPC", host, port) from None


def _credentials(identity: Identity) -> grpc.ServerCredentials:
    """The library asks before each handshake, on a thread of its own; None means: nothing new."""
    given = identity.material

    def newest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        if identity.material is given:
            return None
        given = identity.material
        return _configuration(given)

    asks_clients = given.client_ca is not None
    first, fetch = _configuration(given), cast(Callable[[], grpc.ServerCertificateConfiguration], newest)
    return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=asks_clients)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], material.client_ca)


def channel_options(limits: Limits, connection_seconds: float | None = None) -> list[tuple[str, int]]:
    """The bounds of every connection. A connection that grows old ends after its streams, never under them."""
    longest = limits.call_seconds + limits.request_seconds + limits.stalled_write_seconds
    aged = [] if connection_seconds is None else [("grpc.max_connection_age_ms", round(connection_seconds * 1000))]
    return [
        *aged,
        ("grpc.max_connection_age_grace_ms", round(longest * 1000)),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", round(limits.head_seconds * 1000)),
        ("grpc.so_reuseport", 0),  # else two servers share a port, and nobody is told
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.server.max_pending_requests", MOST_PENDING),  # the queue refuses, with a reason, and never by chance
        ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING),
        ("grpc.http.overload_protection", 0),  # else the stream above fails, where it should wait for one that ends
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ONLY),
        ("grpc.keepalive_time_ms", 30_000),  # notices peers that vanished
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),  # both sides' pings; else those of a client wait two hours
        ("grpc.http2.min_ping_interval_without_data_ms", PING_MS),
        ("grpc.http2.max_ping_strikes", 2),
    ]

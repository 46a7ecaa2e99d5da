"""The gRPC server: the service, health, reflection, and its bounds."""

from __future__ import annotations

import socket

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from server.limits import Limits
from server.service import GenerationService
from server.transport.listening import AddressInUse
from server.transport.rpc.gate import Gate
from server.transport.rpc.servicer import Servicer
from server.transport.watch import TransportObserver

SERVICE: str = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name
IDENTITY_ONLY = 1  # bit set of the compressions that are understood


class RpcListener:
    """Made, started and stopped on one event loop. Health is NOT_SERVING until `set_serving`."""

    def __init__(self, service: GenerationService, observer: TransportObserver, *, reflects: bool) -> None:
        self._server = grpc.aio.server(
            interceptors=(Gate(observer),),
            options=channel_options(service.limits),
            compression=grpc.Compression.NoCompression,
        )
        self._health = health.aio.HealthServicer()
        add_InferenceServiceServicer_to_server(Servicer(service, observer), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflects:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self._serving: bool | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises AddressInUse."""
        await self.set_serving(False)
        _check_free(host, port)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise AddressInUse("gRPC", host, port) from None
        await self._server.start()
        return port

    async def set_serving(self, serving: bool) -> None:
        """What the health service says, overall and of our service."""
        if serving is self._serving:
            return
        self._serving = serving
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if serving else kinds.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def stop(self, grace: float) -> None:
        """Refuse new calls; cut those that are left after `grace` seconds."""
        await self._server.stop(grace)


def _check_free(host: str, port: int) -> None:
    """Try the port with a socket of our own first: the library, refused, writes to stderr itself."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        raise AddressInUse("gRPC", host, port) from None


def channel_options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # else two servers share a port, and nobody is told
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ONLY),
        ("grpc.keepalive_time_ms", 30_000),  # notices peers that vanished
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]

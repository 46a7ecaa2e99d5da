"""From a target to a client: http:// and https:// speak REST, grpc:// and grpcs:// speak gRPC."""

from __future__ import annotations

from urllib.parse import urlsplit

from client.access import Access
from client.api import Client
from client.rest import RestClient
from client.rpc import RpcClient

SCHEMES = ("http", "https", "grpc", "grpcs")


class TargetError(ValueError):
    """A target that names no place to connect to; the message says what one looks like."""


def connect(target: str, access: Access | None = None) -> Client:
    """A client for `target`, to be used as `async with connect(target) as client`. Connects when first used.

    `access` None: as the environment has it.
    """
    parts = urlsplit(target)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise TargetError(f"target {target!r} is not http://HOST:PORT or grpc://HOST:PORT, or https or grpcs for TLS")
    access = Access.from_environment() if access is None else access
    return RpcClient(target, access) if parts.scheme.startswith("grpc") else RestClient(target, access)

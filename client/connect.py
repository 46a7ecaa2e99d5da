"""From a target to a client: http:// and https:// speak REST, grpc:// speaks gRPC."""

from __future__ import annotations

from urllib.parse import urlsplit

from client.api import Client
from client.rest import RestClient
from client.rpc import RpcClient


class TargetError(ValueError):
    """A target that names no place to connect to; the message says what one looks like."""


def connect(target: str) -> Client:
    """A client for `target`, to be used as `async with connect(target) as client`. Connects when first used."""
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https", "grpc") or not parts.netloc:
        raise TargetError(f"target {target!r} is not http://HOST:PORT or grpc://HOST:PORT")
    return RpcClient(target) if parts.scheme == "grpc" else RestClient(target)

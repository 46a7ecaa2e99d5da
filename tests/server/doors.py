"""Ways in that ask who comes: keys in a file, callers and channels that carry one, certificates made on the spot."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.transport import reloading
from tests.server.callers import Caller, RestCaller, RpcCaller
from tests.server.kit import Harness

KEYS = {
    "alice": ("alice-0123456789", ["inference"]),
    "bob": ("bob-0123456789ab", ["inference"]),
    "prom": ("prom-0123456789a", ["metrics"]),
    "root": ("root-0123456789a", ["admin"]),
}


def write_keys(path: Path, *names: str, **fields: Any) -> Path:
    """A key file with these of KEYS; `fields` are more of each."""
    more = "".join(f"{name} = {value!r}\n" for name, value in fields.items())
    tables = [f'[[keys]]\nname = "{name}"\nkey = "{KEYS[name][0]}"\nroles = {KEYS[name][1]}\n{more}' for name in names]
    path.write_text("\n".join(tables))
    path.chmod(0o600)
    return path


def header(name: str | None) -> dict[str, str]:
    """The authorization header of somebody in KEYS; None has none."""
    return {} if name is None else {"authorization": f"Bearer {KEYS[name][0]}"}


class _Carrying:
    """Adds metadata to every call of a channel."""

    def __init__(self, metadata: dict[str, str]) -> None:
        self._metadata = tuple(metadata.items())

    async def _add(self, go_on: Callable[..., Any], details: Any, request: Any) -> Any:
        return await go_on(details._replace(metadata=grpc.aio.Metadata(*self._metadata)), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _add


# A channel takes an interceptor for one kind of call, however many it could do.
class _Unary(_Carrying, grpc.aio.UnaryUnaryClientInterceptor): ...


class _Streamed(_Carrying, grpc.aio.UnaryStreamClientInterceptor): ...


class _BothWays(_Carrying, grpc.aio.StreamStreamClientInterceptor): ...


def channel_of(server: Harness, name: str | None, credentials: grpc.ChannelCredentials | None = None) -> Any:
    """A channel of somebody in KEYS; each one a connection of its own."""
    kinds = [] if name is None else [kind(header(name)) for kind in (_Unary, _Streamed, _BothWays)]
    options = [("grpc.use_local_subchannel_pool", 1)]
    target = server.target.replace("127.0.0.1", "localhost")
    if credentials is None:
        return grpc.aio.insecure_channel(target, options, interceptors=kinds)
    return grpc.aio.secure_channel(target, credentials, options, interceptors=kinds)


@contextlib.asynccontextmanager
async def caller_as(transport: str, server: Harness, name: str | None) -> AsyncIterator[Caller]:
    """Somebody in KEYS, over this transport."""
    if transport == "rest":
        async with aiohttp.ClientSession(headers=header(name)) as session:
            yield RestCaller(replace(server, session=session))
    else:
        async with channel_of(server, name) as channel:
            yield RpcCaller(channel)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, in files."""

    cert: Path
    key: Path

    def client_context(self, authority: Path) -> ssl.SSLContext:
        """For a client that shows this certificate and trusts this authority."""
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(self.cert, self.key)
        return context


class Authority:
    """Signs certificates for localhost."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = _builder(self._name, self._name, self._key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.cert = folder / f"{name}.pem"
        self.cert.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, file: str | None = None) -> Issued:
        """A certificate for `name`, in files of the same name or of another."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = _builder(subject, self._name, key.public_key())
        made = made.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        issued = Issued(self._folder / f"{file or name}.pem", self._folder / f"{file or name}.key")
        issued.cert.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return issued


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))


async def reread(server: Harness) -> None:
    """Wait until its certificates and keys were looked at as they are now, whether or not they could be used."""
    files = server.app.credentials.files
    await until(lambda: all(reloading._stamp(one._paths) in (one._loaded, (one._told or ((),))[0]) for one in files))


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait for something that happens by itself."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)

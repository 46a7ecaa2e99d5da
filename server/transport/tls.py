"""The server's certificate, the same on both transports, read again when its files change."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NO_TICKETS = 0


class TlsError(Exception):
    """The files are not what they should be; the message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With `client_ca` only clients with a certificate signed by one of its authorities get in."""

    cert: Path  # of the server, then those up to the authority
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.cert, self.key) if self.client_ca is None else (self.cert, self.key, self.client_ca)


@dataclass(frozen=True, slots=True)
class Material:
    """What was in the files."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


class Identity:
    """Who the server is, as `context` for asyncio and as `material` for those who need the bytes.

    A new certificate is for new connections; those there are keep theirs.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Raises TlsError."""
        self.files = files
        self.material, self._newest = _read(files)
        # This one stays for good: it begins each handshake and hands it on to the newest as soon as the client has
        # said hello. Loading into a context in use could leave it with a certificate and the key of another.
        self.context = self._newest
        self.context.sni_callback = self._hand_on

    def reload(self) -> None:
        """Read the files again. Raises TlsError and leaves everything as it was."""
        self.material, self._newest = _read(self.files)

    def _hand_on(self, connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        if connection.context is not self._newest:
            connection.context = self._newest


def _read(files: TlsFiles) -> tuple[Material, ssl.SSLContext]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session would not look at the authorities of today.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = NO_TICKETS
    try:
        cert, key = files.cert.read_bytes(), files.key.read_bytes()
        client_ca = None if files.client_ca is None else files.client_ca.read_bytes()
        context.load_cert_chain(files.cert, files.key, password=_no_password)
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            context.minimum_version = ssl.TLSVersion.TLSv1_3  # the older one keeps sessions by their ids
    except ssl.SSLError as error:
        names = " or ".join(str(path) for path in files.paths)
        raise TlsError(f"certificate, key and authority: {names} cannot be used ({error.reason or 'no PEM'})") from None
    except OSError as error:
        raise TlsError(f"certificate file {error.filename}: {error.strerror}") from None
    return Material(cert, key, client_ca), context


def _no_password() -> str:
    """Asked for an encrypted key, in place of a question at the terminal."""
    return ""

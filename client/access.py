"""What a server may want to see before it talks to us: an API key, a certificate; and what we want to see of it."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

_NOT_ITS_AUTHORITY = re.compile("mismatch|expired|not yet valid", re.IGNORECASE)  # another authority would not help


@dataclass(frozen=True, slots=True)
class Access:
    """Files are PEM. `ca`: the authority that the server's certificate must be from; None: those of this system."""

    api_key: str = field(default="", repr=False)
    ca: Path | None = None
    cert: Path | None = None  # ours, for servers that ask for one
    key: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Access:
        """DYNO_API_KEY, DYNO_CA, DYNO_CERT and DYNO_KEY."""
        paths = (environment.get(f"DYNO_{name}") for name in ("CA", "CERT", "KEY"))
        return cls(environment.get("DYNO_API_KEY", ""), *(Path(path) if path else None for path in paths))

    @property
    def headers(self) -> dict[str, str]:
        """What every call carries: headers of HTTP, metadata of gRPC."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def context(self) -> ssl.SSLContext:
        """Raises OSError."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError."""
        ca, key, cert = (None if path is None else path.read_bytes() for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)


def untrusted(target: str, why: str) -> str:
    """What to say of a server whose certificate was refused; `why` in the words of the TLS library."""
    said = f"the certificate of {target} is not trusted ({why})"
    return said if _NOT_ITS_AUTHORITY.search(why) else f"{said}: --ca FILE or DYNO_CA names the authority it is from"


def untrusted_why(error: Exception) -> str:
    """Why a certificate was refused, where that is what this error of aiohttp tells; else empty."""
    cause = getattr(error, "certificate_error", None)
    return str(cause.verify_message) if isinstance(cause, ssl.SSLCertVerificationError) else ""

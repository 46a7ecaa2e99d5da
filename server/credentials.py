"""What the settings say of keys and certificates, made ready for both listeners and read again when it changes."""

from __future__ import annotations

import structlog

from server.config import Settings
from server.transport.auth.access import Authoriser
from server.transport.auth.keys import read_keys
from server.transport.reloading import Reloaded
from server.transport.tls import Identity

log = structlog.get_logger()


class Credentials:
    """`identity` None: without TLS. `files` are to be looked at now and then."""

    def __init__(self, settings: Settings) -> None:
        """Raises KeysError and TlsError."""
        path = settings.api_keys_file
        keys = settings.api_keys if path is None else read_keys(path)
        self.authoriser = Authoriser(keys, everybody=settings.everybody)
        self.identity = None if settings.tls is None else Identity(settings.tls)
        self.files: list[Reloaded] = []
        if path is not None:
            self.files.append(Reloaded("API keys", (path,), lambda: self.authoriser.replace(read_keys(path))))
        if self.identity is not None:
            self.files.append(Reloaded("certificate", self.identity.files.paths, self.identity.reload))
        if not settings.loopback and self.authoriser.asks_for_keys and self.identity is None:
            log.warning("API keys cross the network in the clear: there is no --tls-cert", host=settings.host)

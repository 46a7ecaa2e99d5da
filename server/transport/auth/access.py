"""Who may do what: one authoriser for both transports, and it knows neither."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Collection, Sequence
from enum import Enum
from typing import TypeAlias

from server.errors import PermissionDenied, TooManyRequests, Unauthenticated
from server.tenancy import EVERYBODY, Tenant
from server.transport.auth.keys import ApiKey, Role, digest_of

SCHEME = b"bearer "  # in any case: RFC 9110, 11.1
FAILURES_A_SECOND = 100


class Standing(Enum):
    """What is asked of a caller where no role is."""

    OPEN = "open"  # nothing
    KEY = "key"  # any key


Access: TypeAlias = Role | Standing


class Authoriser:
    """Holds the keys and lets callers in.

    Without keys everybody has the roles of `everybody`. With keys nobody has any without one.
    """

    def __init__(
        self,
        keys: Sequence[ApiKey] = (),
        *,
        everybody: Collection[Role] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = tuple(keys)
        self._everybody = frozenset(everybody)
        self._failures = _Failures(clock)

    @property
    def asks_for_keys(self) -> bool:
        return bool(self._keys)

    def replace(self, keys: Sequence[ApiKey]) -> None:
        """Make these keys the good ones; there must be some, or the server would fall open."""
        assert keys, "keys may be exchanged, not taken away"
        self._keys = tuple(keys)

    def admit(self, credentials: Sequence[bytes], needed: Access | None) -> Tenant:
        """Who calls. `credentials`: the call's authorization headers; `needed` None: not even an admin may.

        Raises Unauthenticated, PermissionDenied, and TooManyRequests for the failures of too many failures.
        """
        if needed is Standing.OPEN:
            return EVERYBODY
        if not self._keys:
            self._check(self._everybody, needed, "everybody who has no API key, and this server knows none")
            return EVERYBODY
        key = self._authenticate(credentials)
        self._check(key.roles, needed, "this API key", key.name)
        return Tenant(key.name, key.max_concurrent)

    def _check(self, roles: frozenset[Role], needed: Access | None, who: str, tenant: str = "") -> None:
        if needed is None:
            raise PermissionDenied("nobody may do this", tenant)
        if needed is not Standing.KEY and needed not in roles:
            raise PermissionDenied(f"this needs the role {needed.value}, which is not given to {who}", tenant)

    def _authenticate(self, credentials: Sequence[bytes]) -> ApiKey:
        key = self._find(credentials[0][len(SCHEME) :]) if _well_formed(credentials) else None
        if key is not None:
            return key
        self._failures.count()
        if not credentials:
            raise Unauthenticated("an API key is needed, as the header authorization: Bearer KEY")
        if not _well_formed(credentials):
            raise Unauthenticated("there must be one authorization header, with the words Bearer KEY")
        raise Unauthenticated("the API key is not known")

    def _find(self, presented: bytes) -> ApiKey | None:
        """Looks at every key, whichever fits: the time tells nothing."""
        digest, found = digest_of(presented), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def _well_formed(credentials: Sequence[bytes]) -> bool:
    return len(credentials) == 1 and credentials[0].lower().startswith(SCHEME)


class _Failures:
    """Turns failures away when there are too many in a second. Who has a good key never comes here."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = 0
        self._seen = 0

    def count(self) -> None:
        second = int(self._clock())
        if second != self._second:
            self._second, self._seen = second, 0
        self._seen += 1
        if self._seen > FAILURES_A_SECOND:
            raise TooManyRequests("too many calls without a good API key", retry_after=1)  # in the next second

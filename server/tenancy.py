"""Whose call it is, and how many of theirs are in flight."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from server.errors import InvalidValue, TooManyRequests


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who calls, by the name of their key. `max_concurrent` None: only the queue bounds them.

    Tenants share no cached prefixes: from the time of an answer nobody can tell what somebody else has asked.
    """

    name: str = ""
    max_concurrent: int | None = None


EVERYBODY = Tenant()
"""Who calls a server that asks for no key."""


class Places:
    """Counts the generations of each tenant. Belongs to the event loop's thread."""

    def __init__(self, retry_after: int) -> None:
        """`retry_after`: seconds after which one who was refused may try again."""
        self._taken: Counter[str] = Counter()
        self._retry_after = retry_after

    def enter(self, tenant: Tenant, count: int, param: str) -> None:
        """Take `count` places until `leave`; `param` is what asked for so many.

        Raises TooManyRequests, and InvalidValue when the tenant never has that many.
        """
        most = tenant.max_concurrent
        if most is not None and count > most:
            message = f"{param} asks for {count} generations at once, of this API key at most {most} may be in flight"
            raise InvalidValue(message, param=param)
        taken = self._taken[tenant.name]
        if most is not None and taken + count > most:
            message = f"{taken} generations of this API key are in flight, at most {most} may be"
            if count > 1:
                message += f"; this call asks for {count}"
            raise TooManyRequests(message, retry_after=self._retry_after)
        self._taken[tenant.name] += count

    def leave(self, tenant: Tenant, count: int) -> None:
        self._taken[tenant.name] -= count
        if not self._taken[tenant.name]:
            del self._taken[tenant.name]  # keys come and go, and leave nothing behind

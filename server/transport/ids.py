"""The ids of a call: ours, the one that its caller gave it, and those of the trace that it belongs to; where it came
from."""

from __future__ import annotations

import re
import secrets

from server.engine.request import Trace

TRACEPARENT = re.compile(
    r"(?!ff|00-.{52}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII
)
GIVEN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def new_id() -> str:
    """An id of a call: unguessable, and nobody else's."""
    return secrets.token_hex(12)


def given_id(given: str | None) -> str | None:
    """The id that a caller gave its call, when it is a plain one; the call is told it as its own, else ours.

    Inside only ours counts: callers may give one id to several calls, or somebody else's.
    """
    return given if given is not None and GIVEN_ID.fullmatch(given) else None


def peer_of(host: str, port: int) -> str:
    """Where a call came from."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def trace_of(traceparent: str | None) -> Trace | None:
    """What a caller says of the trace its call belongs to; None where it says nothing, or nothing that can be read."""
    found = TRACEPARENT.fullmatch(traceparent or "")
    return None if found is None else Trace(found[1], found[2], bool(int(found[3], 16) & 1))

"""Who makes a call."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from server.tenancy import Tenant

caller: ContextVar[Tenant] = ContextVar("caller")
"""Who makes this call. gRPC runs a call in one task, and gives its handler nothing else to carry it."""

admission: ContextVar[Callable[[], Tenant]] = ContextVar("admission")
"""Asks again who makes this call, and raises as at its beginning: for calls that outlive what they began with."""

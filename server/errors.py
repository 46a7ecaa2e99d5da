"""Everything a caller can be told went wrong.

    ServiceError                     message, param (the field at fault), code (a stable word)
    ├── InvalidRequest               the request is wrong and will be wrong again
    │   ├── InvalidValue             a field has a value it may not have
    │   ├── MissingValue             a field that is needed is absent
    │   ├── UnknownField             no such field
    │   ├── UnsupportedField         a field other servers know and this one does not offer
    │   └── ContextLengthExceeded    prompt and output do not fit together
    ├── Unauthenticated              no API key, or none that is known
    ├── PermissionDenied             the API key is good, but not for this
    ├── ModelNotFound                no model of that name is served
    ├── RequestNotFound              no request of that id is in flight
    ├── ModelExists                  another model is served under that name
    ├── ForNow                       it may go well later; try again after `retry_after`
    │   ├── TooManyRequests          this caller has too much in flight, or is wrong too often
    │   ├── QueueFull                too many requests wait already
    │   └── Unavailable              nothing can be served now
    │       ├── Loading              models are still being built
    │       ├── Draining             the server is going away
    │       ├── QueueTimeout         waited too long for its turn
    │       ├── EngineDown           the engine thread died or stands still
    │       ├── NoModel              every model was unloaded
    │       └── FormsUntried         this machine has nothing left to try out a form of the answer with
    ├── DeadlineExceeded             the caller's time, or the longest time allowed, ran out
    ├── Cancelled                    the caller is gone
    └── InternalError                a fault of ours; says nothing but the request's id

Each transport has one table from these classes to its own statuses; a class that is not in a table has its parent's.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Mapping
from typing import ClassVar, TypeVar

Entry = TypeVar("Entry")

SHOWN_CHARS = 64


class _Short(reprlib.Repr):
    """Callers sent JSON: null is not None."""

    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"


_short = _Short()
_short.maxstring = _short.maxother = _short.maxlong = SHOWN_CHARS
_short.maxlist = _short.maxtuple = _short.maxdict = 4


def shown(value: object) -> str:
    """A caller's value, fit to stand in a message: escaped, and cut when long. Costs little whatever its size."""
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN_CHARS:
        return f"an integer of {value.bit_length()} bits"
    text = _short.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 2 * SHOWN_CHARS else f"{text[: 2 * SHOWN_CHARS]}..."


def field_of(path: str) -> str:
    """stop[1] → stop; a path into an object stays: messages[0].role."""
    return path.removesuffix("]").rpartition("[")[0] if path.endswith("]") else path


class ServiceError(Exception):
    """Root of the tree. `message` names field, value and limit; it never holds anything but the caller's own words."""

    code: ClassVar[str] = "error"
    retry_after: int | None = None  # seconds

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.resource: tuple[str, str] | None = None  # what the error is about: its kind and its name


def entry_of(table: Mapping[type[ServiceError], Entry], kind: type[ServiceError]) -> Entry:
    """What a table has for a class: its own entry, or that of the nearest class above it."""
    return next(table[parent] for parent in kind.__mro__ if parent in table)


class InvalidRequest(ServiceError):
    code = "invalid_request"

    def rename(self, names: Mapping[str, str]) -> None:
        """Call the field what the caller calls it."""
        name = names.get(self.param or "")
        if self.param is not None and name is not None:
            self.message = re.sub(rf"^{re.escape(self.param)}\b", name, self.message)
            self.param = name


class InvalidValue(InvalidRequest):
    code = "invalid_value"

    @classmethod
    def between(cls, param: str, value: object, low: object, high: object) -> InvalidValue:
        return cls(f"{param} must be between {low} and {high}, got {shown(value)}", param=param)

    @classmethod
    def at_most(cls, param: str, count: int, limit: int, unit: str) -> InvalidValue:
        """`param` may have an index, which is for the message only."""
        return cls(f"{param} may have at most {limit} {unit}, got {count}", param=field_of(param))


class MissingValue(InvalidRequest):
    code = "missing_value"


class UnknownField(InvalidRequest):
    code = "unknown_field"

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown field {shown(name)}", param=shown(name)[1:-1])


class UnsupportedField(InvalidRequest):
    code = "unsupported"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ModelNotFound(ServiceError):
    code = "model_not_found"

    def __init__(self, name: str, served: Collection[str]) -> None:
        offered = f"served are {', '.join(served)}" if served else "none is at the moment"
        super().__init__(f"model {shown(name)} is not served; {offered}", param="model")
        self.resource = ("model", shown(name)[1:-1])


class RequestNotFound(ServiceError):
    code = "request_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(f"no request {shown(id)} is in flight", param="id")
        self.resource = ("request", shown(id)[1:-1])


class ModelExists(ServiceError):
    code = "model_exists"

    def __init__(self, name: str) -> None:
        message = f"a model is called {shown(name)} already; unload it first, or name this one ID=NAME"
        super().__init__(message, param="model")
        self.resource = ("model", shown(name)[1:-1])


class Unauthenticated(ServiceError):
    code = "invalid_api_key"


class PermissionDenied(ServiceError):
    """`tenant`: whose key it is; "" without one."""

    code = "permission_denied"

    def __init__(self, message: str, tenant: str = "") -> None:
        super().__init__(message)
        self.tenant = tenant


class ForNow(ServiceError):
    """Whoever makes one says when to come back: limits.retry_after_seconds, unless it knows better."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyRequests(ForNow):
    code = "too_many_requests"


class QueueFull(ForNow):
    code = "queue_full"


class Unavailable(ForNow):
    code = "unavailable"


class Loading(Unavailable):
    code = "loading"


class Draining(Unavailable):
    code = "draining"


class QueueTimeout(Unavailable):
    code = "queue_timeout"


class EngineDown(Unavailable):
    code = "engine_down"


class NoModel(Unavailable):
    code = "no_model"


class FormsUntried(Unavailable):
    code = "forms_untried"


class DeadlineExceeded(ServiceError):
    code = "deadline_exceeded"


class Cancelled(ServiceError):
    code = "cancelled"


class InternalError(ServiceError):
    code = "internal_error"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the server failed on this request; its id is {request_id}")

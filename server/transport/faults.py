"""What went wrong in a way that nobody thought of, on either transport."""

from __future__ import annotations

import structlog

from server.errors import InternalError

log = structlog.get_logger()


def internal_error(request_id: str, error: BaseException) -> InternalError:
    """Log what happened, tell only where to find it."""
    log.error("unexpected error", id=request_id, exc_info=error)
    return InternalError(request_id)

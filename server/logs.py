"""How the server talks to its operator: one line a record, JSON unless a person is watching."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence

import structlog
from structlog.typing import Processor

SHARED: Sequence[Processor] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
)


class LosingLogger(structlog.PrintLogger):
    """Writes a line, or loses it where nobody reads any more or the disk is full: telling is never fatal."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: the file is closed
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def configure(level: str) -> None:
    """Send our own records and those of the libraries to stderr. Libraries only speak up from WARNING on."""
    number = logging.getLevelNamesMapping()[level.upper()]
    # Plain tracebacks: those with the values of variables would show what users wrote.
    end: list[Processor] = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    if not sys.stderr.isatty():
        end = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*SHARED, *end],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: LosingLogger(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta  # what the formatter keeps for processors
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[strip, *end], foreign_pre_chain=SHARED))
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    # Clients can make uvicorn warn as often as they like; what matters of it, the transport logs itself.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

"""Numbers as people read them. What is not a number is a dash."""

from __future__ import annotations

from math import ceil, isfinite

_DASH = "–"


def milliseconds(seconds: float | None) -> str:
    """0.01234 → "12.3"; three digits that count."""
    return _DASH if seconds is None else plain(seconds * 1e3)


def plain(value: float | None) -> str:
    """Three digits that count, no exponent: 0.0123, 1.23, 123, 1234."""
    if value is None or not isfinite(value):
        return _DASH
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}" if value else "0"


def counted(count: int) -> str:
    """1234567 → "1.23 M"; a dash for 0, which is what a server that does not tell sends."""
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{plain(count / size)}{unit}"
    return str(count) if count else _DASH


def several(count: int, what: str) -> str:
    """ "1 round", "5 rounds" """
    return f"{count} {what}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    return f"{share:.0%}" if isfinite(share) else _DASH


def bar(share: float, width: int = 10) -> str:
    """A bar that fills `share` of `width` characters, in eighths."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width)


_SPARKS = "▁▂▃▄▅▆▇█"


def sparks(values: tuple[int, ...]) -> str:
    """One little column a value, the highest for the largest; a dot for zero."""
    top = max(values, default=0)
    return "".join("·" if value == 0 else _SPARKS[ceil(value * 8 / top) - 1] for value in values)

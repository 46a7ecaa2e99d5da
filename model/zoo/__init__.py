"""The trained checkpoints that ship with Dyno."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of the embedded models."""
    return sorted(card.parent.name for card in HERE.glob("*/card.json"))


def folder(name: str) -> Path | None:
    """Where an embedded model lies, or None when there is none of this name."""
    return HERE / name if name in names() else None

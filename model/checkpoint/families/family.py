"""What a family of checkpoints is: how its config.json reads as an architecture, and where it keeps the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model.checkpoint.layout import Layout
from model.checkpoint.settings import Settings
from model.config import Architecture


def nothing(settings: Settings) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Family:
    """One kind of config.json and its tensors. Names begin with `root` but in checkpoints of the bare model; `ignored`
    are patterns of tensors without a part in the forward pass (beside the usual ones); `quantised` what is read;
    `written` the class that export.py names in a config.json of this kind, None where such files are only read."""

    architecture: Callable[[Settings], Architecture]
    layout: Callable[[Settings], Layout]
    root: str = "model."
    ignored: Callable[[Settings], tuple[str, ...]] = nothing
    quantised: frozenset[str] = frozenset()
    written: str | None = None

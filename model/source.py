"""What the name of a model stands for: one order of looking, whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from model import presets, zoo
from model.checkpoint import hub
from model.presets import Preset

KINDS = (".toml", ".json")


@dataclass(frozen=True, slots=True)
class File:
    """An architecture alone; whether the file is there is found out by reading it."""

    path: Path


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder, or org/name of the hub."""

    place: Path | str


Source: TypeAlias = File | Checkpoint | Preset


def find(name: str) -> Source:
    """A model of the zoo, an architecture file, a checkpoint folder, org/name of the hub, or a preset.

    UnknownPreset where it is none of these.
    """
    path = zoo.folder(name) or Path(name)
    if path.suffix in KINDS and not path.is_dir():
        return File(path)
    if path.exists():
        return Checkpoint(path)
    return Checkpoint(name) if hub.is_name(name) else presets.find(name)

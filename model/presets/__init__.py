"""Published architectures by name: data, one file a family, in the form of model/codec.py."""

from __future__ import annotations

import difflib
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.codec import architecture_from_dict
from model.config import Architecture, ConfigError
from model.presets.scale import SCALES, Scale, scaled

__all__ = ["SCALES", "Preset", "Published", "Scale", "UnknownPreset", "find", "load", "names", "resolve", "scaled"]

HERE = Path(__file__).parent


class UnknownPreset(ConfigError):
    """A name that no preset has; the message suggests close ones, or says why there is none."""


@dataclass(frozen=True, slots=True)
class Published:
    """What its makers say: parameters in all and active, to the digit where `exact`; `note` tells what they count."""

    total: int | None = None
    active: int | None = None
    exact: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Preset:
    """A published architecture and where its figures come from; `checkpoint` is a repository of the hub."""

    name: str
    family: str
    year: int
    source: str
    architecture: Architecture
    checkpoint: str = ""
    published: Published = Published()
    note: str = ""


def names() -> tuple[str, ...]:
    """Every preset, family by family."""
    return tuple(_records())


def load(name: str) -> Architecture:
    """The architecture of a preset; UnknownPreset when there is none."""
    return find(name).architecture


def find(name: str) -> Preset:
    """A preset by its name or a well-known short one, in any case and parted in any way: "DeepSeek-V3", "Qwen 2"."""
    return _build(resolve(name))


def resolve(name: str) -> str:
    """The full name of a preset."""
    key = name.strip().lower().replace(" ", "-").replace("_", "-")
    known = _by_letters().get(_letters(key))
    if known is not None:
        return known
    raise UnknownPreset(_why_not(name, key))


def _why_not(name: str, key: str) -> str:
    absent = _known_as()["absent"]
    for known, why in absent.items():
        if _letters(known) == _letters(key):
            return f"{known}: {why}"
    close = difflib.get_close_matches(key, [*_records(), *_known_as()["aliases"], *absent], n=3, cutoff=0.6)
    hint = f"; close ones are {', '.join(close)}" if close else f", of which there are {len(_records())}"
    return f"{name!r} is not a preset{hint}"


@functools.cache
def _build(name: str) -> Preset:
    family, record = _records()[name]
    fields = {key: record[key] for key in ("year", "source", "checkpoint", "note") if key in record}
    published = Published(**record.get("published", {}))
    return Preset(
        name, family, architecture=architecture_from_dict(record["architecture"]), published=published, **fields
    )


@functools.cache
def _records() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name → (family, record as read)."""
    return {
        name: (path.stem, record)
        for path in sorted((HERE / "data").glob("*.json"))
        for name, record in json.loads(path.read_text()).items()
    }


@functools.cache
def _by_letters() -> dict[str, str]:
    """Names and short names as `_letters` has them → full name."""
    aliases = _known_as()["aliases"]
    return {_letters(name): full for name, full in aliases.items()} | {_letters(name): name for name in _records()}


def _letters(name: str) -> str:
    """A name without what parts its words: "qwen-2" and "qwen2" are one."""
    return name.replace("-", "")


@functools.cache
def _known_as() -> dict[str, dict[str, str]]:
    """`aliases`: short name → full name; `absent`: name people ask for → why it is no preset."""
    names: dict[str, dict[str, str]] = json.loads((HERE / "names.json").read_text())
    return names

"""Architectures as plain data (JSON, TOML) and back.

A value becomes a mapping of its fields that differ from their defaults; where a field may hold several kinds of value
the mapping has a `type` key. Blocks are written once each, by name, and `layers` lists them as patterns: ["dense*3",
"sparse*58"], ["(local*5 global)*8"]; `encoder.layers` does so for an encoder. "none" stands for null, which TOML lacks.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from model import pattern
from model.config import Architecture, Block, ConfigError, Encoder
from model.naming import Names, block_names
from model.schema import default, expected, hints, keys, kinds, members, tag
from model.values.base import LARGEST, shown

Value = TypeVar("Value")


def encode(value: Any, tagged: bool = False, without: tuple[str, ...] = ()) -> Any:
    """A frozen value as plain data: only fields that differ from their defaults, and none of those in `without`."""
    if isinstance(value, tuple):
        return [encode(item, tagged) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    data: dict[str, Any] = {"type": tag(type(value))} if tagged else {}
    of = hints(type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if field.name not in without and item != default(field):
            data[field.name] = encode(item, len(kinds(of[field.name])) > 1)
    return data


def decode(kind: type[Value], data: Any, path: str = "") -> Value:
    """Plain data as a value of `kind`; ConfigError names the path of what is wrong."""
    if not isinstance(data, dict):
        raise ConfigError(f"{path or 'architecture'}: expected a table, got {shown(data)}")
    of = hints(kind)
    _check_known(tuple(of), data, path)
    fields = {name: _decode_field(of[name], item, _join(path, name)) for name, item in data.items() if name != "type"}
    missing = [f.name for f in dataclasses.fields(kind) if f.name not in fields and default(f) is dataclasses.MISSING]  # type: ignore[arg-type]
    if missing:
        raise ConfigError(f"{_join(path, missing[0])}: required field is missing")
    try:
        return kind(**fields)
    except ConfigError as error:
        raise ConfigError(f"{path or 'architecture'}: {error}") from None


def _check_known(known: tuple[str, ...], data: dict[str, Any], path: str) -> None:
    unknown = sorted(set(data) - {*known, "type"})
    if unknown:
        raise ConfigError(f"{_join(path, unknown[0])}: unknown field; known are {', '.join(known)}")


def architecture_to_dict(architecture: Architecture, names: Names | None = None) -> dict[str, Any]:
    """The whole architecture as JSON-ready data; `names` of its blocks, where they have some already."""
    names = names or block_names(architecture)
    data = {**encode(architecture, without=("blocks", "encoder")), "layers": _layers(architecture.blocks, names)}
    if architecture.encoder is not None:
        encoder = encode(architecture.encoder, without=("blocks",))
        data["encoder"] = {**encoder, "layers": _layers(architecture.encoder.blocks, names)}
    return {**data, "blocks": {name: encode(block) for block, name in names.items()}}


def architecture_from_dict(data: dict[str, Any]) -> Architecture:
    """The inverse of `architecture_to_dict`."""
    return _named(data)[0]


def _named(data: dict[str, Any]) -> tuple[Architecture, Names]:
    """The architecture and the data's name of each block in it; of two names of equal blocks the first."""
    if not isinstance(data, dict):
        raise ConfigError(f"architecture: expected a table, got {shown(data)}")
    if "preset" in data:
        raise ConfigError(
            f"preset = {shown(data['preset'])}: only training takes a preset from a file, with the vocabulary of its "
            "tokenizer; elsewhere a preset is given by its name, in place of a file"
        )
    _check_known(keys(Architecture), data, "")
    if "blocks" not in data:
        raise ConfigError("blocks: required field is missing; needed are vocab, width, context, layers and blocks")
    if not isinstance(data["blocks"], dict):
        raise ConfigError(f"blocks: expected a table [blocks.NAME] for each block, got {shown(data['blocks'])}")
    blocks = {name: decode(Block, block, f"blocks.{name}") for name, block in data["blocks"].items()}
    names = {block: name for name, block in reversed(blocks.items())}
    architecture = decode(Architecture, _with_stacks(data, blocks))
    encoder = architecture.encoder.blocks if architecture.encoder is not None else ()
    return architecture, {block: names[block] for block in (*architecture.blocks, *encoder)}


def _layers(blocks: tuple[Block, ...], names: Names) -> list[str]:
    return pattern.write([names[block] for block in blocks])


def _with_stacks(data: dict[str, Any], blocks: dict[str, Block]) -> dict[str, Any]:
    """The data with blocks in the place of `layers`."""
    full = {key: item for key, item in data.items() if key != "layers"}
    full["blocks"] = _stack(data.get("layers"), blocks, "layers")
    encoder = data.get("encoder")
    if isinstance(encoder, dict):
        _check_known(keys(Encoder), encoder, "encoder")
        read = _stack(encoder.get("layers"), blocks, "encoder.layers")
        full["encoder"] = {**{key: item for key, item in encoder.items() if key != "layers"}, "blocks": read}
    return full


def _stack(layers: Any, blocks: dict[str, Block], path: str) -> tuple[Block, ...]:
    parts = [layers] if isinstance(layers, str) else layers
    strings = isinstance(parts, list) and all(isinstance(part, str) for part in parts)
    names = pattern.expand(" ".join(parts)) if strings else []
    if not names:
        found = "required field is missing; it has" if layers is None else f"got {shown(layers)} instead of"
        raise ConfigError(f"{path}: {found} patterns of block names such as ['dense*3', 'sparse*58']")
    unknown = sorted(set(names) - set(blocks))
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]!r} is none of the blocks {', '.join(sorted(blocks))}")
    return tuple(blocks[name] for name in names)


def load_architecture(path: Path) -> Architecture:
    """Read an architecture from a .toml or .json file; ConfigError names the file."""
    return load_named(path)[0]


def load_named(path: Path) -> tuple[Architecture, Names]:
    """Read an architecture and the file's names of its blocks from .toml or .json; ConfigError names the file."""
    data = read_table(path)
    try:
        return _named(data.get("architecture", data))
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None


def read_table(path: Path) -> dict[str, Any]:
    """The data of a .toml or .json file; ConfigError names the file."""
    try:
        text = path.read_text("utf-8")
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ConfigError(f"{path.name}: {error.strerror or 'cannot be read'}") from None
    except RecursionError:
        raise ConfigError(f"{path.name}: tables within tables, too deep to be read") from None
    except ValueError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path.name}: expected a table, got {shown(data)}")
    return data


def _decode_field(hint: Any, data: Any, path: str) -> Any:
    if isinstance(data, tuple):  # built already
        return data
    if get_origin(hint) is tuple:
        if not isinstance(data, list):
            raise ConfigError(f"{path}: expected a list, got {shown(data)}")
        inner = get_args(hint)[0]
        return tuple(_decode_field(inner, item, f"{path}[{i}]") for i, item in enumerate(data))
    found = kinds(hint)
    if found and isinstance(data, dict):
        return decode(_choose(found, data, path), data, path)
    return _decode_plain(hint, data, path)


def _choose(of: list[type], data: dict[str, Any], path: str) -> type:
    names = {tag(kind): kind for kind in of}
    if len(of) == 1 and data.get("type", tag(of[0])) == tag(of[0]):
        return of[0]
    if "type" not in data:
        raise ConfigError(f"{_join(path, 'type')}: required field is missing; one of {', '.join(names)}")
    wanted = data["type"]
    if not isinstance(wanted, str) or wanted not in names:
        raise ConfigError(f"{_join(path, 'type')}: {shown(wanted)} is not one of {', '.join(names)}")
    return names[wanted]


def _decode_plain(hint: Any, data: Any, path: str) -> Any:
    of = members(hint)
    if data == "none" and types.NoneType in of:
        return None
    for member in of:
        if get_origin(member) is Literal:
            if data in get_args(member):
                return data
        elif member is float and isinstance(data, int | float) and not isinstance(data, bool):
            return _real(data, path)
        elif isinstance(member, type) and type(data) is member:
            return data
    raise ConfigError(f"{path}: expected {expected(hint)}, got {shown(data)}")


def _real(number: float, path: str) -> float:
    if isinstance(number, int) and abs(number) > LARGEST:  # some are too large for a float
        raise ConfigError(f"{path} must be from {-LARGEST:g} to {LARGEST:g}, got {shown(number)}")
    return float(number)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

"""Architectures as plain data (JSON, TOML) and back.

A value becomes a mapping of its fields that differ from their defaults; where a field may hold several kinds of value
the mapping has a `type` key. Blocks are written once each, by name, and `layers` lists them as patterns: ["dense*3",
"sparse*58"], ["(local*5 global)*8"]; `encoder.layers` does so for an encoder. "none" stands for null, which TOML lacks.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from model import config, pattern
from model.config import Architecture, Block, ConfigError
from model.naming import Names, block_names
from model.values.base import LARGEST, shown

Value = TypeVar("Value")


def tag(kind: type) -> str:
    """FeedForward → feed_forward, MoE → moe."""
    return re.sub(r"(?<=[a-z])(?=[A-Z](?!$))", "_", kind.__name__).lower()


def encode(value: Any, tagged: bool = False, without: tuple[str, ...] = ()) -> Any:
    """A frozen value as plain data: only fields that differ from their defaults, and none of those in `without`."""
    if isinstance(value, tuple):
        return [encode(item, tagged) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    data: dict[str, Any] = {"type": tag(type(value))} if tagged else {}
    hints = _hints(type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if field.name not in without and item != _default(field):
            data[field.name] = encode(item, len(_kinds(hints[field.name])) > 1)
    return data


def decode(kind: type[Value], data: Any, path: str = "") -> Value:
    """Plain data as a value of `kind`; ConfigError names the path of what is wrong."""
    if not isinstance(data, dict):
        raise ConfigError(f"{path or 'architecture'}: expected a table, got {shown(data)}")
    hints = _hints(kind)
    unknown = sorted(set(data) - set(hints) - {"type"})
    if unknown:
        raise ConfigError(f"{_join(path, unknown[0])}: unknown field; known are {', '.join(hints)}")
    fields = {
        name: _decode_field(hints[name], item, _join(path, name)) for name, item in data.items() if name != "type"
    }
    missing = [f.name for f in dataclasses.fields(kind) if f.name not in fields and _default(f) is dataclasses.MISSING]  # type: ignore[arg-type]
    if missing:
        raise ConfigError(f"{_join(path, missing[0])}: required field is missing")
    try:
        return kind(**fields)
    except ConfigError as error:
        raise ConfigError(f"{path or 'architecture'}: {error}") from None


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
    if not isinstance(data, dict) or not isinstance(data.get("blocks"), dict):
        raise ConfigError("blocks: expected a table of blocks by name")
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
        read = _stack(encoder.get("layers"), blocks, "encoder.layers")
        full["encoder"] = {**{key: item for key, item in encoder.items() if key != "layers"}, "blocks": read}
    return full


def _stack(layers: Any, blocks: dict[str, Block], path: str) -> tuple[Block, ...]:
    parts = [layers] if isinstance(layers, str) else layers
    if not parts or not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ConfigError(
            f"{path}: expected patterns of block names such as ['dense*3', 'sparse*58'], got {shown(layers)}"
        )
    names = pattern.expand(" ".join(parts))
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


def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, vars(config))


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _kinds(hint: Any) -> list[type]:
    """The dataclasses a field may hold."""
    if get_origin(hint) is tuple:
        return _kinds(get_args(hint)[0])
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [m for m in members if dataclasses.is_dataclass(m) and isinstance(m, type)]


def _decode_field(hint: Any, data: Any, path: str) -> Any:
    if isinstance(data, tuple):  # built already
        return data
    if get_origin(hint) is tuple:
        if not isinstance(data, list):
            raise ConfigError(f"{path}: expected a list, got {shown(data)}")
        inner = get_args(hint)[0]
        return tuple(_decode_field(inner, item, f"{path}[{i}]") for i, item in enumerate(data))
    kinds = _kinds(hint)
    if kinds and isinstance(data, dict):
        return decode(_choose(kinds, data, path), data, path)
    return _decode_plain(hint, data, path)


def _choose(kinds: list[type], data: dict[str, Any], path: str) -> type:
    names = {tag(kind): kind for kind in kinds}
    if len(kinds) == 1 and data.get("type", tag(kinds[0])) == tag(kinds[0]):
        return kinds[0]
    wanted = data.get("type")
    if not isinstance(wanted, str) or wanted not in names:
        raise ConfigError(f"{_join(path, 'type')}: {shown(wanted)} is not one of {', '.join(names)}")
    return names[wanted]


def _decode_plain(hint: Any, data: Any, path: str) -> Any:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if data == "none" and types.NoneType in members:
        return None
    for member in members:
        if get_origin(member) is Literal:
            if data in get_args(member):
                return data
        elif member is float and isinstance(data, int | float) and not isinstance(data, bool):
            return _real(data, path)
        elif isinstance(member, type) and type(data) is member:
            return data
    choices = [c for m in members if get_origin(m) is Literal for c in get_args(m)]
    wanted = f"one of {', '.join(choices)}" if choices else " or ".join(getattr(m, "__name__", str(m)) for m in members)
    raise ConfigError(f"{path}: expected {wanted}, got {shown(data)}")


def _real(number: float, path: str) -> float:
    if isinstance(number, int) and abs(number) > LARGEST:  # some are too large for a float
        raise ConfigError(f"{path} must be from {-LARGEST:g} to {LARGEST:g}, got {shown(number)}")
    return float(number)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

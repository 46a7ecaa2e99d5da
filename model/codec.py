"""Architectures as plain data (JSON, TOML) and back.

A value becomes a mapping of its fields that differ from their defaults; where a field may hold several kinds of value
the mapping has a `type` key. Blocks are written once each, by name, and `layers` lists them: ["dense*3", "sparse*58"].
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from model import config
from model.config import Architecture, Block, ConfigError

Value = TypeVar("Value")
LAYER = re.compile(r"(?P<name>[a-z0-9_-]+)(?:\*(?P<count>[0-9]+))?")
MOST_LAYERS = 4096


def tag(kind: type) -> str:
    """FeedForward → feed_forward, MoE → moe."""
    return re.sub(r"(?<=[a-z])(?=[A-Z](?!$))", "_", kind.__name__).lower()


def encode(value: Any, tagged: bool = False) -> Any:
    """A frozen value as plain data: only fields that differ from their defaults."""
    if isinstance(value, tuple):
        return [encode(item, tagged) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    data: dict[str, Any] = {"type": tag(type(value))} if tagged else {}
    hints = _hints(type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if item != _default(field):
            data[field.name] = encode(item, len(_kinds(hints[field.name])) > 1)
    return data


def decode(kind: type[Value], data: Any, path: str = "") -> Value:
    """Plain data as a value of `kind`; ConfigError names the path of what is wrong."""
    if not isinstance(data, dict):
        raise ConfigError(f"{path or 'architecture'}: expected a table, got {data!r}")
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


def architecture_to_dict(architecture: Architecture) -> dict[str, Any]:
    """The whole architecture as JSON-ready data."""
    names: dict[Block, str] = {}
    for block in architecture.blocks:
        names.setdefault(block, _block_name(block, len(names)))
    layers = [_layer(names[block], len(list(run))) for block, run in itertools.groupby(architecture.blocks)]
    rest = encode(dataclasses.replace(architecture, blocks=architecture.blocks[:1]))
    rest.pop("blocks")
    if "norm" not in rest and architecture.norm is None:
        rest["norm"] = None
    return {**rest, "layers": layers, "blocks": {name: encode(block) for block, name in names.items()}}


def architecture_from_dict(data: dict[str, Any]) -> Architecture:
    """The inverse of `architecture_to_dict`."""
    data = dict(data)
    blocks = {name: decode(Block, block, f"blocks.{name}") for name, block in data.pop("blocks", {}).items()}
    stack: list[Block] = []
    for layer in data.pop("layers", []):
        match = LAYER.fullmatch(layer) if isinstance(layer, str) else None
        if match is None or match["name"] not in blocks:
            raise ConfigError(f"layers: {layer!r} is not NAME or NAME*COUNT of one of the blocks {sorted(blocks)}")
        count = int(match["count"] or 1)
        if len(stack) + count > MOST_LAYERS:
            raise ConfigError(f"layers: more than {MOST_LAYERS} layers")
        stack += [blocks[match["name"]]] * count
    if not stack:
        raise ConfigError("layers: at least one layer is needed")
    shell = decode(Architecture, {**data, "blocks": [{"branches": [{"type": "feed_forward", "hidden": 1}]}]})
    return dataclasses.replace(shell, blocks=tuple(stack))


def load_architecture(path: Path) -> Architecture:
    """Read an architecture from a .toml or .json file."""
    text = path.read_text()
    try:
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    return architecture_from_dict(data.get("architecture", data))


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
    if get_origin(hint) is tuple:
        if not isinstance(data, list):
            raise ConfigError(f"{path}: expected a list, got {data!r}")
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
    if data.get("type") not in names:
        raise ConfigError(f"{_join(path, 'type')}: {data.get('type')!r} is not one of {', '.join(names)}")
    return names[data["type"]]


def _decode_plain(hint: Any, data: Any, path: str) -> Any:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for member in members:
        if get_origin(member) is Literal:
            if data in get_args(member):
                return data
        elif member is float and isinstance(data, int | float) and not isinstance(data, bool):
            return float(data)
        elif isinstance(member, type) and type(data) is member:
            return data
    choices = [c for m in members if get_origin(m) is Literal for c in get_args(m)]
    wanted = f"one of {', '.join(choices)}" if choices else " or ".join(getattr(m, "__name__", str(m)) for m in members)
    raise ConfigError(f"{path}: expected {wanted}, got {data!r}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _block_name(block: Block, index: int) -> str:
    sparse = any(isinstance(branch, config.MoE) for branch in block.branches)
    return f"{'sparse' if sparse else 'dense'}{index or ''}"


def _layer(name: str, count: int) -> str:
    return name if count == 1 else f"{name}*{count}"

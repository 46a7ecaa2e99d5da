"""What the tables of a file may hold, by the frozen values they are read as, and how a file says it."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

from model import config
from model.config import Architecture, Block, Encoder

PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", types.NoneType: '"none"'}
SAMPLES = {int: "8", float: "0.5", bool: "true", str: '"name"'}


def tag(kind: type) -> str:
    """FeedForward → feed_forward, MoE → moe."""
    return re.sub(r"(?<=[a-z])(?=[A-Z](?!$))", "_", kind.__name__).lower()


def hints(kind: type) -> dict[str, Any]:
    """The type of every field."""
    found = typing.get_type_hints(kind, vars(config))
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


def keys(kind: type) -> tuple[str, ...]:
    """The keys of its table: blocks are written as `layers`, and once each in the `blocks` of an architecture."""
    stacked = {Architecture: ("layers", "blocks"), Encoder: ("layers",)}
    own = {"blocks": stacked.get(kind, ("blocks",))}
    return tuple(key for name in hints(kind) for key in own.get(name, (name,)))


def default(field: dataclasses.Field[Any]) -> Any:
    """Its default, or dataclasses.MISSING."""
    return field.default_factory() if callable(field.default_factory) else field.default


def members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a type alone is one of one."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def kinds(hint: Any) -> list[type]:
    """The dataclasses a field may hold, or its list."""
    if get_origin(hint) is tuple:
        return kinds(get_args(hint)[0])
    return [m for m in members(hint) if dataclasses.is_dataclass(m) and isinstance(m, type)]


def choices(hint: Any) -> tuple[str, ...]:
    """The words a field may hold."""
    return tuple(word for m in members(hint) if get_origin(m) is Literal for word in get_args(m))


def expected(hint: Any) -> str:
    """What to write for a field: "a whole number", "a table with type = full, window or chunk"."""
    words, tables = choices(hint), kinds(hint)
    wanted = [f"one of {', '.join(words)}"] if words else []
    if len(tables) > 1:
        wanted.append(f"a table with type = {either([tag(kind) for kind in tables])}")
    elif tables:
        wanted.append(f"a table such as {example(tables[0])}")
    return " or ".join(wanted + [PLAIN[m] for m in members(hint) if m in PLAIN])


def either(names: list[str]) -> str:
    """["a", "b", "c"] → "a, b or c"."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def example(kind: type) -> str:
    """A table of this kind as TOML: its required fields, or else its first plain one."""
    if kind in (Encoder, Block):
        return '{ layers = "dense*6" }' if kind is Encoder else "{ branches = [] }"
    of = hints(kind)
    required = [f.name for f in dataclasses.fields(kind) if default(f) is dataclasses.MISSING]
    plain = [name for name in of if choices(of[name]) or not kinds(of[name])]
    shown = ", ".join(f"{name} = {_sample(of[name])}" for name in required or plain[:1])
    return f"{{ {shown} }}"


def _sample(hint: Any) -> str:
    words, tables = choices(hint), kinds(hint)
    if words:
        return f'"{words[1]}"'
    return example(tables[0]) if tables else SAMPLES[members(hint)[0]]

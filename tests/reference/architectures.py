"""docs/architectures.md: the frozen values of architectures and recipes as the tables of files that hold them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_origin

from model import schema
from model.codec import encode
from model.config import Architecture, Block
from model.presets import SCALES
from model.recipe import Card, Named, Recipe
from model.toml import inline
from tests.reference.rest import anchor

INTRODUCTION = """\
# Architecture files

This page is made from the values of `model/config.py`, `model/values` and `model/recipe.py` by `make docs`: every table
that an architecture file or a training recipe may have, with its keys.

An architecture file is TOML, or JSON with the same keys wherever a `.toml` is read. It has blocks by name and says in
`layers` how they are stacked:

```toml
vocab = 512
width = 128
context = 1024
layers = "dense (local*2 global)*4"

[blocks.dense]
branches = [
  { type = "attention", heads = { type = "grouped", query = 4, kv = 4, dim = 32 }, position = { type = "rotary" } },
  { type = "feed_forward", hidden = 384 },
]

[[blocks.local.branches]]
type = "attention"
heads = { type = "grouped", query = 4, kv = 1, dim = 32 }
position = { type = "rotary" }
span = { type = "window", size = 128 }

[[blocks.local.branches]]
type = "moe"
experts = 8
active = 2
expert = { hidden = 192 }

[blocks.global]
placement = "sandwich"
norm = { kind = "layer" }
branches = [
  { type = "attention", heads = { type = "grouped", query = 4, kv = 1, dim = 32 }, softcap = 50.0 },
  { type = "feed_forward", hidden = 384, activation = "gelu", gated = false },
]
```

A pattern is names of blocks, apart by spaces: `name*3` repeats a block, `(a*2 b)*4` a group, and groups may stand in
groups. A list of patterns is read as one after another. Names have letters, digits, `_`, `.` and `-`.

`dyno inspect mine.toml` draws what a file says and counts it, `dyno serve --model mine.toml` serves it with random
weights. To change one thing of a preset, write it to a file first:

```console
$ dyno inspect gemma-3-4b --toml > mine.toml                   # as published
$ dyno inspect deepseek-v3 --scale tiny --toml > mine.toml     # small, of the same shape
```

Where a key may hold tables of several kinds, `type` says which. `"none"` stands for null, which TOML lacks (in texts
None); `{}` is a table of defaults. No number is beyond ±1e30. Errors are those beside the limits of single keys.
"""
RECIPES = """\
## Training recipes

A recipe is a TOML file with the tables `[architecture]`, `[training]` and, if you like, `[card]`;
[training.md](training.md) says how it is used. `[architecture]` is written out as above (its blocks are then
`[architecture.blocks.NAME]`), or names a preset and, if you like, a scale: {scales}.
"""
TABLES = {Named: "[architecture] of a preset", Recipe: "[training]", Card: "[card]"}

PLAIN = {int: "whole number", float: "number", bool: "true or false", str: "string", NoneType: '`"none"`'}

Place = tuple[type, str, bool]
"""(value, key, whether the table there says its type)"""


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for kind, places in reached().items():
        lines += [f"## {schema.tag(kind)}\n", _told(kind), *_where(kind, places), *_keys(kind)]
    lines.append(RECIPES.format(scales=schema.either([f"`{name}`" for name in SCALES])))
    for kind, heading in TABLES.items():
        lines += [f"### {heading}\n", _told(kind), *_keys(kind)]
    return "\n".join(lines)


def reached() -> dict[type, list[Place]]:
    """Every value of an architecture, from the outside in, with the places it may be at."""
    found: dict[type, list[Place]] = {Architecture: []}
    waiting: list[type] = [Architecture]
    for kind in waiting:
        for name, hint in schema.hints(kind).items():
            inner = schema.kinds(hint)
            waiting += [one for one in inner if one not in found]
            for one in inner:
                found.setdefault(one, []).append((kind, name, len(inner) > 1))
    return found


def _told(kind: type) -> str:
    return textwrap.dedent(f"    {kind.__doc__}").strip() + "\n"


def _where(kind: type, places: list[Place]) -> Iterator[str]:
    said = {False: "at ", True: f'with `type = "{schema.tag(kind)}"` at '}
    parts = [
        said[typed] + schema.either([f"`{name}` of {_link(at)}" for at, name, tagged in places if tagged is typed])
        for typed in sorted({tagged for _, _, tagged in places}, reverse=True)
        if kind is not Block
    ]
    if parts:
        yield f"Stands {'; '.join(parts)}.\n"


def _keys(kind: type) -> Iterator[str]:
    limits, errors = _checks(kind)
    fields, hints = {field.name: field for field in dataclasses.fields(kind)}, schema.hints(kind)
    if fields:
        yield from ("| key | holds | default | limit |", "|---|---|---|---|")
    for key in schema.keys(kind):
        if key == "layers":
            yield "| `layers` | a pattern, or a list of them | required | |"
        elif hints[key] == tuple[Block, ...]:
            yield f"| `blocks` | a table by name, of a {_link(Block)} each | required | |"
        else:
            limit = f"{limits[key]} |" if limits.get(key) else "|"
            yield f"| `{key}` | {_type(hints[key])} | {_default(fields[key], hints[key])} | {limit}"
    yield ""
    if errors:
        yield f"Errors: {'; '.join(errors)}.\n"


def _type(hint: Any) -> str:
    words = [f"`{word}`" for word in schema.choices(hint)] + [_link(kind) for kind in schema.kinds(hint)]
    words += [PLAIN[member] for member in schema.members(hint) if member in PLAIN]
    return ("list of " if get_origin(hint) is tuple else "") + schema.either(words)


def _default(field: dataclasses.Field[Any], hint: Any) -> str:
    found = schema.default(field)
    if found is dataclasses.MISSING:
        return "required"
    return f"`{inline(encode(found, tagged=len(schema.kinds(hint)) > 1))}`"


def _link(kind: type) -> str:
    return f"[{schema.tag(kind)}](#{anchor(schema.tag(kind))})"


def _checks(kind: type) -> tuple[dict[str, str], list[str]]:
    """The limits that a value checks of single fields, and the messages of what it checks beside them."""
    limits: dict[str, str] = {}
    errors: list[str] = []
    if "__post_init__" not in vars(kind):
        return limits, errors
    tree = ast.parse(textwrap.dedent(inspect.getsource(vars(kind)["__post_init__"])))
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("positive"), keywords=named):
                limits |= dict.fromkeys((str(one.arg) for one in named), "> 0")
            case ast.Call(func=ast.Name("within"), args=bounds, keywords=named):
                ends = [*bounds, *(one.value for one in named if one.arg == "low")]
                limit = " to ".join(f"{_number(end, kind):,}" for end in ends)
                names = (str(one.arg) for one in named if one.arg != "low")
                limits |= dict.fromkeys(names, limit if len(ends) > 1 else f"≥ {limit}" if ends else "")
            case ast.Call(func=ast.Name("check"), args=[_, said]):
                errors.append(_message(said))
    limits |= {name: limit for name, limit in map(_single, errors) if name}
    return limits, [
        error for error in errors if not _single(error)[0] and not error.endswith("blocks must not be empty")
    ]


def _single(error: str) -> tuple[str, str]:
    """The field and the limit of a message that tells of one field alone; else nothing."""
    found = re.fullmatch(r"(\w+) must (?:(not be negative)|be (in [^…]*))", error)
    return (found[1], "≥ 0" if found[2] else found[3]) if found else ("", "")


def _number(node: ast.expr, kind: type) -> int:
    """A number as it is written, or of a constant of the value's module."""
    if isinstance(node, ast.Name):
        return int(vars(sys.modules[kind.__module__])[node.id])
    return int(ast.literal_eval(node))


def _message(node: ast.expr) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
    return text.removesuffix(", got …")

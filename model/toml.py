"""Plain data as TOML that people read and change; Python only reads it."""

from __future__ import annotations

import json
import re
from typing import Any


def written(data: dict[str, Any]) -> str:
    """An architecture of `model.codec` as a file: its blocks are tables, and each of their branches is on one line."""
    lines = [f"{_key(key)} = {inline(item)}" for key, item in data.items() if key != "blocks"]
    for name, block in data["blocks"].items():
        lines += ["", f"[blocks.{_key(name)}]"]
        lines += [f"{_key(key)} = {inline(item)}" for key, item in block.items() if key != "branches"]
        lines += ["branches = [", *(f"  {inline(branch)}," for branch in block["branches"]), "]"]
    return "\n".join(lines)


def inline(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {inline(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps("none" if value is None else value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)

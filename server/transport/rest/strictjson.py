"""JSON as the standard has it and nothing more: what two readers could read differently is refused."""

from __future__ import annotations

import json
import math
from typing import Any

from server.errors import InvalidRequest, InvalidValue, shown
from server.limits import Limits


class MalformedJson(InvalidRequest):
    code = "malformed_json"


def read_object(raw: bytes, limits: Limits) -> dict[str, Any]:
    """The object that `raw` holds, UTF-8. Raises InvalidRequest.

    Refused: duplicate keys, NaN and infinities (also by overflow), halves of surrogate pairs, more nesting or keys than
    the limits.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(items) > limits.json_keys:
            raise MalformedJson(f"an object may have at most {limits.json_keys} keys, got {len(items)}")
        value = dict(items)
        if len(value) < len(items):
            raise _duplicate([key for key, _ in items])
        return value

    too_deep = MalformedJson(f"the body may be nested at most {limits.json_depth} deep")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the body is not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise too_deep from None
    except ValueError:  # an integer of thousands of digits
        raise MalformedJson("the body has a number that is too long") from None
    if not isinstance(value, dict):
        raise MalformedJson(f"the body must be a JSON object, got {shown(value)}")
    if not _sound(value, limits.json_depth):
        raise too_deep
    return value


def _sound(value: Any, depth: int) -> bool:
    """Whether a value's nesting fits; raises MalformedJson for text and numbers that cannot be."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise MalformedJson("the body has a number beyond the range of a double")
    elif isinstance(value, dict):
        return depth > 0 and all(_sound(key, 1) and _sound(item, depth - 1) for key, item in value.items())
    elif isinstance(value, list):
        return depth > 0 and all(type(item) is int or _sound(item, depth - 1) for item in value)
    return True


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedJson(f"the body has half a surrogate pair, in {shown(text)}") from None


def _no_constant(name: str) -> Any:
    raise MalformedJson(f"{name} is not JSON")


def _duplicate(keys: list[str]) -> InvalidValue:
    key = next(key for key in keys if keys.count(key) > 1)
    return InvalidValue(f"{shown(key)} is given more than once", param=shown(key)[1:-1])

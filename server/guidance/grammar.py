"""A form of the answer, as a caller describes it, as a grammar of the library."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher

from server.call import Guidance, GuidanceKind
from server.errors import InvalidValue
from server.limits import Limits

WHITESPACE = r"( |\n[ \t]{0,32})?"
"""Between the tokens of JSON: none, a space, or a new line and its indentation. A model that says nothing but white
space where it may, as small ones do, comes to something else."""
SHOWN_CHARS = 200

NAMES = {
    GuidanceKind.JSON_OBJECT: "JSON object",
    GuidanceKind.JSON_SCHEMA: "JSON schema",
    GuidanceKind.REGEX: "regular expression",
    GuidanceKind.CHOICE: "choice",
    GuidanceKind.GRAMMAR: "grammar",
}


def check_guidance(guidance: Guidance, limits: Limits) -> None:
    """What can be said before anything is compiled; raises InvalidValue."""
    if guidance.kind is GuidanceKind.CHOICE:
        _check_choices(guidance, limits)
        return
    if len(guidance.text) > limits.guidance_chars:
        raise refused(guidance, f"it may have at most {limits.guidance_chars} characters, got {len(guidance.text)}")
    if not guidance.text.strip() and guidance.kind is not GuidanceKind.JSON_OBJECT:
        raise refused(guidance, "it is empty")
    if "\0" in guidance.text:
        raise refused(guidance, "it may not contain NUL characters")
    if guidance.kind is GuidanceKind.JSON_SCHEMA:
        _schema(guidance, limits)


def grammar_of(guidance: Guidance) -> str:
    """The library's grammar of a form that `check_guidance` let pass. Raises InvalidValue for what it cannot read."""
    match guidance.kind:
        case GuidanceKind.JSON_OBJECT:
            return LLMatcher.grammar_from_json_schema({"type": "object"}, defaults={"whitespace_pattern": WHITESPACE})
        case GuidanceKind.JSON_SCHEMA:
            return _schema_grammar(guidance)
        case GuidanceKind.REGEX:
            return LLMatcher.grammar_from_regex(guidance.text)
        case GuidanceKind.CHOICE:
            words = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in guidance.choices)
            return LLMatcher.grammar_from_lark(f"start: {words}")
        case GuidanceKind.GRAMMAR:
            return LLMatcher.grammar_from_lark(guidance.text)


def _schema_grammar(guidance: Guidance) -> str:
    schema = guidance.text if guidance.text.lstrip().startswith("{") else "{}"  # true: anything
    try:
        return LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": WHITESPACE})
    except ValueError as error:  # numbers beyond a double, half a surrogate pair
        raise refused(guidance, f"it cannot be read: {error}") from None


def refused(guidance: Guidance, why: str) -> InvalidValue:
    """The error that says so."""
    why = why.encode("ascii", "backslashreplace").decode()
    if len(why) > SHOWN_CHARS:
        why = f"{why[:SHOWN_CHARS]}..."
    return InvalidValue(f"the {NAMES[guidance.kind]} cannot be used: {why}", param=guidance.param)


def _check_choices(guidance: Guidance, limits: Limits) -> None:
    count = len(guidance.choices)
    if not 1 <= count <= limits.guidance_choices:
        raise refused(guidance, f"it must have between 1 and {limits.guidance_choices} texts, got {count}")
    if not all(guidance.choices):
        raise refused(guidance, "a text of it is empty")
    size = sum(map(len, guidance.choices))
    if size > limits.guidance_chars:
        raise refused(guidance, f"its texts may have at most {limits.guidance_chars} characters, got {size}")
    if any("\0" in choice for choice in guidance.choices):
        raise refused(guidance, "it may not contain NUL characters")


def _schema(guidance: Guidance, limits: Limits) -> None:
    try:
        schema = json.loads(guidance.text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise refused(guidance, f"it may be nested at most {limits.json_depth} deep") from None
    except ValueError as error:
        raise refused(guidance, f"it is not JSON: {error}") from None
    if not isinstance(schema, dict) and schema is not True:
        raise refused(guidance, "it must be an object" if schema is not False else "nothing satisfies it")
    if not _fits(schema, limits.json_depth):
        raise refused(guidance, f"it may be nested at most {limits.json_depth} deep")


def _fits(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_fits(item, depth - 1) for item in inner)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object of it has a key more than once")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

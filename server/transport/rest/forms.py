"""The ways in which REST clients ask for a form of the answer: OpenAI's, and vLLM's older and newer ones."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from server.call import Guidance, GuidanceKind
from server.errors import InvalidValue, MissingValue
from server.transport.rest.foreign import NEUTRAL_IN_STRUCTURED_OUTPUTS, Discerning


def read_schema(value: object) -> str | None:
    """A JSON schema as text, whether it came as JSON or as text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict | bool):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # orjson writes no integer over 64 bits
    raise ValueError("a JSON schema or its text")


Schema: TypeAlias = Annotated[
    str | None, PlainValidator(read_schema), WithJsonSchema({"type": ["object", "string", "boolean", "null"]})
]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class NamedSchema(Form):
    """OpenAI's. The name and the description are for the reader; the form is always kept to, strict or not."""

    name: str | None = None
    description: str | None = None
    text: Annotated[Schema, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Form):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(Discerning, Form):
    """vLLM's newer way: one of these."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = NEUTRAL_IN_STRUCTURED_OUTPUTS

    json_: Annotated[Schema, Field(alias="json")] = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    disable_any_whitespace: Any = None
    disable_additional_properties: Any = None
    whitespace_pattern: Any = None
    structural_tag: Any = None


class GuidedBody(BaseModel):
    """What both generating routes take of these."""

    response_format: ResponseFormat | None = None
    guided_json: Schema = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None


def guidance_of(body: GuidedBody) -> Guidance | None:
    """The form that is asked for. Raises InvalidRequest when there are several."""
    asked = [
        *_response_format(body.response_format),
        *_described("guided_", body.guided_json, body.guided_regex, body.guided_choice, body.guided_grammar),
        *_structured(body.structured_outputs),
    ]
    if len(asked) > 1:
        message = f"{asked[1].param} cannot be given together with {asked[0].param}"
        raise InvalidValue(message, param=asked[1].param)
    return asked[0] if asked else None


def _response_format(wish: ResponseFormat | None) -> list[Guidance]:
    if wish is None:
        return []
    if wish.type != "json_schema" and wish.json_schema is not None:
        raise InvalidValue('response_format.json_schema needs type "json_schema"', param="response_format.json_schema")
    if wish.type == "text":
        return []
    if wish.type == "json_object":
        return [Guidance(GuidanceKind.JSON_OBJECT, "response_format")]
    if wish.json_schema is None or wish.json_schema.text is None:
        path = "response_format.json_schema" + ("" if wish.json_schema is None else ".schema")
        raise MissingValue(f"{path} is needed", param=path)
    return [Guidance(GuidanceKind.JSON_SCHEMA, "response_format.json_schema.schema", wish.json_schema.text)]


def _structured(wish: StructuredOutputs | None) -> list[Guidance]:
    if wish is None:
        return []
    asked = _described("structured_outputs.", wish.json_, wish.regex, wish.choice, wish.grammar)
    if wish.json_object:
        asked.append(Guidance(GuidanceKind.JSON_OBJECT, "structured_outputs.json_object"))
    if not asked:
        raise MissingValue("structured_outputs must say which form the answer is to have", param="structured_outputs")
    return asked


def _described(
    prefix: str, schema: str | None, regex: str | None, choice: list[str] | None, grammar: str | None
) -> list[Guidance]:
    texts: list[tuple[GuidanceKind, str, Any]] = [
        (GuidanceKind.JSON_SCHEMA, "json", schema),
        (GuidanceKind.REGEX, "regex", regex),
        (GuidanceKind.GRAMMAR, "grammar", grammar),
    ]
    asked = [Guidance(kind, prefix + name, text) for kind, name, text in texts if text is not None]
    if choice is not None:
        asked.append(Guidance(GuidanceKind.CHOICE, f"{prefix}choice", choices=tuple(choice)))
    return asked

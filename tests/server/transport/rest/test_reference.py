"""The page about requests names what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dyno.inference.v1 import inference_pb2 as pb
from server.limits import Limits
from server.transport.rest.foreign import NEUTRAL, NEUTRAL_IN_CHAT, NEUTRAL_IN_COMPLETIONS
from server.transport.rest.forms import StructuredOutputs
from server.transport.rest.schema import IGNORED, UNSUPPORTED, ChatBody, CompletionBody

TEXT = (Path(__file__).parents[4] / "docs" / "requests.md").read_text()
PAGE = " ".join(TEXT.split())
WORDS = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", PAGE))))
OF_MESSAGES = {"annotations", "name", "refusal", "tool_calls"}


@pytest.mark.parametrize("name", sorted({*CompletionBody.model_fields, *ChatBody.model_fields, *IGNORED}))
def test_every_field_of_rest_is_named(name: str) -> None:
    assert name in WORDS


@pytest.mark.parametrize("name", sorted(set(UNSUPPORTED) - OF_MESSAGES))
def test_what_is_refused_is_named(name: str) -> None:
    assert name in WORDS


@pytest.mark.parametrize(
    "name",
    sorted({*pb.SamplingParameters.DESCRIPTOR.fields_by_name, *pb.Guidance.DESCRIPTOR.fields_by_name})
    + [field.alias or name for name, field in StructuredOutputs.model_fields.items()],
)
def test_every_field_of_grpc_is_named(name: str) -> None:
    assert name in WORDS


def test_every_neutral_value_is_in_the_table() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", TEXT.partition("## Fields of vLLM and SGLang")[2], re.MULTILINE))
    completions, chat = NEUTRAL | NEUTRAL_IN_COMPLETIONS, NEUTRAL | NEUTRAL_IN_CHAT
    assert completions.keys() <= CompletionBody.model_fields.keys() and chat.keys() <= ChatBody.model_fields.keys()
    assert rows.keys() == completions.keys() | chat.keys()
    for name, values in (completions | chat).items():
        told = [json.loads(value) for value in re.findall(r"`(.*?)`", rows[name])]
        assert told == [value for value in values if value is not None], name


def test_limits_are_as_the_page_says() -> None:
    limits = Limits()
    assert f"at most {limits.allowed_ids:,}" in PAGE
    assert f"−{limits.priority} to {limits.priority}" in PAGE
    assert f"{limits.guidance_choices:,} choices" in PAGE and f"at most {limits.guidance_chars >> 10} Ki" in PAGE
    assert limits.guidance_seconds == 1.0 and f"{limits.json_depth} levels" in PAGE
    assert f"at most {limits.choices} continuations" in PAGE and f"up to {limits.logprobs} most likely" in PAGE

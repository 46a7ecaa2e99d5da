"""Fields of other servers: a value that asks for nothing is taken, any other is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.transport.rest.foreign import NEUTRAL, NEUTRAL_IN_CHAT, NEUTRAL_IN_COMPLETIONS
from tests.server.kit import Harness
from tests.server.transport.rest.test_bodies import CHAT, GOOD, post, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMPLETIONS, IN_CHAT = NEUTRAL | NEUTRAL_IN_COMPLETIONS, NEUTRAL | NEUTRAL_IN_CHAT
ROUTES = [
    *(("/v1/completions", name, value) for name, values in COMPLETIONS.items() for value in values),
    *(("/v1/chat/completions", name, value) for name, values in IN_CHAT.items() for value in values),
]
NAMES = dict.fromkeys((path, name) for path, name, _ in ROUTES)


def good(path: str) -> dict[str, Any]:
    return CHAT if "chat" in path else GOOD


@pytest.mark.parametrize(("path", "name", "value"), ROUTES, ids=str)
async def test_a_neutral_value_is_taken(path: str, name: str, value: Any, server: Harness) -> None:
    status, answer = await post(server, path, json.dumps(good(path) | {name: value}).encode())
    assert status == 200, answer


@pytest.mark.parametrize(("path", "name"), NAMES, ids=str)
async def test_any_other_value_is_refused_by_name(path: str, name: str, server: Harness) -> None:
    for value in ("else", 2, [1], {"a": 1}):
        error = await refused(server, path, good(path) | {name: value})
        assert (error["code"], error["param"]) == ("unsupported", name)


@pytest.mark.parametrize(
    "asked",
    [{"skip_special_tokens": False}, {"use_beam_search": True}, {"use_beam_search": 0}, {"stream_interval": True}],
    ids=str,
)
async def test_true_is_not_one_nor_the_contrary_neutral(asked: dict[str, Any], server: Harness) -> None:
    assert (await refused(server, "/v1/completions", GOOD | asked))["code"] == "unsupported"


async def test_a_whole_number_is_the_same_in_json(server: Harness) -> None:
    status, answer = await post(server, "/v1/completions", json.dumps(GOOD | {"length_penalty": 1}).encode())
    assert status == 200, answer


async def test_no_alternatives_need_no_log_probabilities(server: Harness) -> None:
    """What vLLM's own request type holds where nothing was asked for."""
    none = CHAT | {"logprobs": False, "top_logprobs": 0}
    status, answer = await post(server, "/v1/chat/completions", json.dumps(none).encode())
    assert status == 200 and answer["choices"][0]["logprobs"] is None


async def test_a_top_k_of_minus_one_is_off(server: Harness) -> None:
    texts = []
    for top_k in (-1, 0):
        asked = GOOD | {"top_k": top_k, "seed": 5, "temperature": 2.0, "max_tokens": 8}
        status, answer = await post(server, "/v1/completions", json.dumps(asked).encode())
        assert status == 200, answer
        texts.append(answer["choices"][0]["text"])
    assert texts[0] == texts[1]


async def test_what_vllm_says_of_a_form_is_taken_where_it_asks_for_nothing(server: Harness) -> None:
    """All that the dataclass of its own API holds."""
    neutral = {"disable_any_whitespace": False, "disable_additional_properties": False}
    form = {"choice": ["yes", "no"], "json": None, "whitespace_pattern": None, "structural_tag": None, **neutral}
    status, answer = await post(
        server, "/v1/completions", json.dumps(GOOD | {"max_tokens": 9, "structured_outputs": form}).encode()
    )
    assert status == 200 and answer["choices"][0]["text"] in ("yes", "no")
    for name in (*neutral, "whitespace_pattern", "structural_tag"):
        error = await refused(server, "/v1/completions", GOOD | {"structured_outputs": form | {name: True}})
        assert (error["code"], error["param"]) == ("unsupported", f"structured_outputs.{name}")

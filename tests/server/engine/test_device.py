"""Which device a name means, and how much cache fits into a GPU's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model import presets
from model.cache import cache_entries
from server.engine.device import NoDevice, find_device, largest_room, pool_bytes
from server.engine.runner import Room
from server.models import split_device, split_spec

ROOM = Room(tokens=100_000, rows=16, batch_tokens=512, page_size=64)
NAMES = ["llama-3-8b", "mistral-7b", "gemma-3-27b", "deepseek-v3", "transformer-base"]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return int(request.param)


@pytest.mark.parametrize(
    ("cards", "wanted", "expected"),
    [(0, "auto", "cpu"), (0, "cpu", "cpu"), (2, "cpu", "cpu"), (2, "auto", "cuda:0"), (2, "cuda:1", "cuda:1")],
    indirect=["cards"],
)
def test_which_device_a_name_means(cards: int, wanted: str, expected: str) -> None:
    assert str(find_device(wanted)) == expected


@pytest.mark.parametrize(
    ("cards", "wanted", "words"),
    [(0, "cuda", "sees no CUDA GPU"), (2, "cuda:2", "this machine has cuda:0 to cuda:1")],
    indirect=["cards"],
)
def test_a_card_that_is_not_there(cards: int, wanted: str, words: str) -> None:
    with pytest.raises(NoDevice, match=words) as refused:
        find_device(wanted)
    assert str(refused.value).startswith(f"device {wanted}: ")


@pytest.mark.parametrize(
    ("spec", "device", "name", "source"),
    [
        ("llama-3-8b", None, "llama-3-8b", "llama-3-8b"),
        ("llama-3-8b@cuda", "cuda", "llama-3-8b", "llama-3-8b"),
        ("m=org/name@cuda:3", "cuda:3", "m", "org/name"),
        ("m=/some/where@cpu", "cpu", "m", "/some/where"),
        ("me=you@home", None, "me", "you@home"),
        ("m=a@auto", "auto", "m", "a"),
    ],
)
def test_a_model_names_its_device(spec: str, device: str | None, name: str, source: str) -> None:
    assert split_device(spec)[1] == device
    assert split_spec(spec) == (name, source)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_largest_room_fits_and_a_larger_one_does_not(name: str, share: float) -> None:
    architecture = presets.load(name)
    budget = int(share * pool_bytes(architecture, ROOM, 2))
    found = largest_room(architecture, ROOM, 2, budget)
    assert 0 < found.tokens < ROOM.tokens and found.tokens % ROOM.page_size == 0
    assert pool_bytes(architecture, found, 2) <= budget
    more = replace(found, tokens=found.tokens + ROOM.page_size)
    assert pool_bytes(architecture, more, 2) > budget


def test_a_room_is_no_larger_than_asked_for_nor_than_kernels_count() -> None:
    architecture = presets.load("llama-3-8b")
    assert largest_room(architecture, ROOM, 2, 10**15).tokens == ROOM.tokens // 64 * 64
    huge = largest_room(architecture, replace(ROOM, tokens=10**9), 2, 10**15)
    entry = cache_entries(architecture)[0]
    assert huge.tokens * entry.heads * entry.key_dim < 2**31
    assert (huge.tokens + 64) * entry.heads * entry.key_dim >= 2**31


def test_where_nothing_fits_there_is_no_room() -> None:
    assert largest_room(presets.load("llama-3-8b"), ROOM, 2, 1000).tokens == 0

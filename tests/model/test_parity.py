"""The dense forward and the served path equal the reference for every value of an architecture."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch

from model import config
from model.config import Architecture
from model.dense import dense_input
from tests.model.cases import CASES, MIXED_CASES
from tests.model.parity import assert_close, assert_texts, prepared, waiting

EVERY = pytest.mark.parametrize("architecture", CASES.values(), ids=CASES.keys())


@EVERY
def test_the_dense_forward_equals_the_reference(architecture: Architecture) -> None:
    model, texts, expected = prepared(architecture)
    for tokens, (logits, routed) in zip(texts, expected, strict=True):
        out = model(dense_input(architecture, torch.tensor([tokens])))
        assert_close(out.logits, logits, logits)
        for found, wanted in zip(out.routings, routed, strict=True):
            assert torch.equal(found.experts, torch.where(wanted.kept, wanted.experts, ~wanted.experts))


@EVERY
def test_the_served_path_equals_the_reference(architecture: Architecture, kernel: str) -> None:
    engine = waiting(architecture, seed=len(repr(architecture)))
    engine.finish()
    assert_texts(engine, architecture)


@pytest.mark.parametrize("architecture", MIXED_CASES.values(), ids=MIXED_CASES.keys())
def test_a_dense_batch_equals_its_rows(architecture: Architecture) -> None:
    model, (long, *others), expected = prepared(architecture)
    short = min(map(len, others))
    out = model(dense_input(architecture, torch.tensor([long[:short], *(tokens[:short] for tokens in others)])))
    for found, (logits, _) in zip(out.logits.split(short), expected, strict=True):
        assert_close(found, logits[:short], logits)


# ---------------------------------------------------------------------------------------------- are the cases complete?

ELSEWHERE = (
    # What the reference does not compute: other tests hold these to the published implementations.
    config.Encoder,
    config.CrossAttention,
    config.Indexer,
    config.Buckets,
    config.ProportionalScaling,
    config.SparseMixer,
    config.Beside,
    (config.Router, "norm"),
    (config.Router, "expert_gain"),
    (config.Embedding, "spare"),
    (config.Attention, "indexer"),
    (Architecture, "encoder"),
    # Training only.
    (config.Router, "loss"),
)


def collect(value: Any, seen: dict[tuple[type, str], set[Any]]) -> None:
    if isinstance(value, tuple):
        for item in value:
            collect(item, seen)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            seen[type(value), field.name].add(item)
            collect(item, seen)


def options_of(hint: Any) -> set[Any]:
    """The closed choices of a field: Literals, booleans, kinds of values, and None where it may be left out."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    if hint is bool:
        return {True, False}
    if get_origin(hint) in (Union, UnionType):
        return set().union(*(options_of(member) for member in get_args(hint)))
    return {hint} if dataclasses.is_dataclass(hint) or hint is NoneType else set()


def option(item: Any) -> Any:
    return item if isinstance(item, str | bool) else type(item)


def test_the_cases_use_every_option_of_every_value() -> None:
    """A new variant, or a new choice in one, must come with a case."""
    seen: dict[tuple[type, str], set[Any]] = defaultdict(set)
    for architecture in CASES.values():
        collect(architecture, seen)
    unseen = {
        f"{kind.__name__}.{name}: {missing}"
        for kind, name in list(seen)
        for missing in options_of(get_type_hints(kind, vars(config))[name]) - set(map(option, seen[kind, name]))
        if missing not in ELSEWHERE and (kind, name) not in ELSEWHERE
    }
    assert not unseen


def test_every_field_departs_from_its_default_in_some_case() -> None:
    seen: dict[tuple[type, str], set[Any]] = defaultdict(set)
    for architecture in CASES.values():
        collect(architecture, seen)
    kinds = {kind for kind, _ in seen} - {config.RouterLoss}
    fields = [(kind, field) for kind in kinds for field in dataclasses.fields(kind)]
    still = {
        f"{kind.__name__}.{field.name}"
        for kind, field in fields
        if seen[kind, field.name] == {field.default} and (kind, field.name) not in ELSEWHERE
    }
    assert not still

"""What an operator is told: models and what they are doing, requests and how far they are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from server.generation import Choice, Generation


class ModelState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


class ChoicePhase(StrEnum):
    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    PREEMPTED = "preempted"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """`error` says why a model could not be loaded."""

    name: str
    state: ModelState
    error: str | None = None
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class ChoiceStatus:
    phase: ChoicePhase
    prompt_tokens: int
    completion_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """A request in flight; never what was asked or answered. `age` in seconds."""

    id: str
    model: str
    tenant: str
    age: float
    choices: tuple[ChoiceStatus, ...]


def request_status(generation: Generation, now: float) -> RequestStatus:
    """`now`: the service's clock."""
    choices = tuple(_choice(choice) for choice in generation.choices)
    age = now - generation.choices[0].request.arrived
    return RequestStatus(generation.id, generation.model.name, generation.call.tenant.name, age, choices)


def _choice(choice: Choice) -> ChoiceStatus:
    request = choice.request
    return ChoiceStatus(_phase(choice), request.num_prompt_tokens, len(request.outputs), request.sampling.max_tokens)


def _phase(choice: Choice) -> ChoicePhase:
    """What the lengths tell: a request that lost its blocks has computed nothing, and has outputs."""
    request = choice.request
    if choice.ended:
        return ChoicePhase.ENDED
    if request.num_computed == 0:
        return ChoicePhase.PREEMPTED if request.outputs else ChoicePhase.QUEUED
    return ChoicePhase.PREFILL if request.num_computed < len(request.prompt) else ChoicePhase.DECODE

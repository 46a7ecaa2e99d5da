"""What /admin/v1 answers, for the document."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.transport.rest.openapi.accounts import Account


class AdministeredModel(Account):
    """A model and its state."""

    name: str = Field(description="The name it is served under.")
    state: Literal["loading", "ready", "unloading", "failed"] = Field(description="What it is doing.")
    error: str | None = Field(description="Why it could not be loaded.")
    running: int = Field(description="Requests that have a place in a batch.")
    waiting: int = Field(description="Requests that wait for one.")


class AdministeredModels(Account):
    """The models, those that are served first."""

    models: list[AdministeredModel] = Field(description="One entry per model.")


class LoadedModel(Account):
    """The model that was loaded, or is being loaded."""

    model: AdministeredModel


class Unloaded(Account):
    """The model is no longer served."""

    ended_requests: int = Field(description="Requests that were ended because they took longer than they might.")


class ChoiceInFlight(Account):
    """One continuation of a request."""

    phase: Literal["queued", "prefill", "decode", "preempted", "ended"] = Field(description="What it is doing.")
    prompt_tokens: int = Field(description="Tokens of the prompt.")
    completion_tokens: int = Field(description="Tokens generated so far.")
    max_tokens: int = Field(description="Tokens it may generate at most.")


class RequestInFlight(Account):
    """A request in flight; never what was asked or answered."""

    id: str = Field(description="The server's id, as its caller has it too.")
    model: str = Field(description="The model it asks.")
    tenant: str = Field(description="Name of the API key it came with; empty where none is asked for.")
    age: float = Field(description="Seconds since it came in.")
    choices: list[ChoiceInFlight] = Field(description="Its continuations, by index.")


class RequestsInFlight(Account):
    """The requests in flight."""

    requests: list[RequestInFlight] = Field(description="Oldest first.")


class Done(Account):
    """Empty response."""


class Forgotten(Account):
    """The prefix cache is cleared."""

    models: list[str] = Field(description="The models whose prefix cache was cleared.")


class Draining(Account):
    """The server accepts no more calls."""

    requests: int = Field(description="Requests that are still in flight.")

"""From what a user wants to send to a trace: prompts of a kind and a length, for models that can hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from client.api import Client, ModelCard
from client.load.arrivals import Drawn, offsets
from client.load.lengths import Lengths, draw_lengths, most
from client.load.prompts import cut, random_ids, shared_prefix, tales
from client.load.salt import Salt
from client.load.trace import Trace, TraceRow

DEFAULT_PROMPT_TOKENS = 128


class WorkloadError(ValueError):
    """The models cannot do this workload; the message says which and why."""


class Prompts(StrEnum):
    """What is asked."""

    TALES = "tales"  # passages of tales; as text, or cut to `prompt_tokens` tokens
    RANDOM = "random"  # random token ids
    SHARED = "shared"  # random token ids, of which the prompts of a family begin with the same


@dataclass(frozen=True, slots=True)
class Workload:
    """What is sent, apart from when. Every answer has exactly as many tokens as `output_tokens` says or draws.

    Of shared prompts, each of `families` has `share` of its tokens in common. `tenants` take turns. A share `cancelled`
    of the users leaves `cancel_after` seconds after sending.
    """

    requests: int
    output_tokens: Lengths
    prompts: Prompts = Prompts.TALES
    prompt_tokens: Lengths | None = None
    temperature: float = 0.0
    families: int = 1
    share: float = 0.75
    tenants: int = 0
    cancelled: float = 0.0
    cancel_after: float = 1.0

    @property
    def longest(self) -> int:
        """Tokens of the longest request there can be, its answer included; a passage that is sent as text counts as
        one token, as only a tokenizer knows how many it has."""
        whole_text = self.prompts is Prompts.TALES and self.prompt_tokens is None
        return (1 if whole_text else most(self.drawn_tokens)) + most(self.output_tokens)

    @property
    def drawn_tokens(self) -> Lengths:
        """The lengths of prompts that are made of tokens."""
        return self.prompt_tokens or DEFAULT_PROMPT_TOKENS


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under load, the connection to it, what makes its prompts new to it, and what it is called."""

    client: Client
    card: ModelCard
    salt: Salt | None = None
    name: str = ""  # in a comparison

    @property
    def said(self) -> str:
        """What messages call it: the model, after its name in a comparison."""
        return f"{self.name}: model {self.card.id}" if self.name else f"model {self.card.id}"


async def draw(workload: Workload, arrivals: Drawn, subjects: Sequence[Subject], *, seed: int, start: int = 0) -> Trace:
    """A trace, the same for every subject. Raises WorkloadError, and ClientError from tokenising.

    A seed stands for an endless sequence of requests; these begin at `start`: successive traces share no prompt.
    """
    fits(workload, subjects)
    prompts = await _prompts(workload, subjects, seed, start)
    return made(workload, arrivals, prompts, seed=seed, start=start)


def made(
    workload: Workload, arrivals: Drawn, prompts: Sequence[str | tuple[int, ...]], *, seed: int, start: int = 0
) -> Trace:
    """The trace of prompts that are drawn already."""
    count = workload.requests
    instants = offsets(arrivals, count, (seed, start))
    outputs = draw_lengths(workload.output_tokens, count, (seed, start, 2))
    leaves = np.random.default_rng((seed, start, 3)).random(count) < workload.cancelled
    return Trace(
        tuple(
            TraceRow(
                offset,
                prompt,
                outputs[i],
                start + i,
                workload.temperature,
                tenant=f"tenant-{(start + i) % workload.tenants}" if workload.tenants else "",
                cancel_after=workload.cancel_after if leaves[i] else None,
            )
            for i, (offset, prompt) in enumerate(zip(instants, prompts, strict=True))
        )
    )


def least_vocab(subjects: Iterable[Subject]) -> int:
    """Token ids that every subject knows, of those that say how many they know; 0 where none does."""
    return min((subject.card.vocab for subject in subjects if subject.card.vocab), default=0)


def fits(workload: Workload, subjects: Sequence[Subject]) -> None:
    """Raises WorkloadError when a model tells a context that is too short."""
    needed = workload.longest
    for subject in subjects:
        context = subject.card.context
        if context and needed > context:
            raise WorkloadError(f"{subject.said} holds {context} tokens; the workload needs {needed}")


async def _prompts(
    workload: Workload, subjects: Sequence[Subject], seed: int, start: int
) -> Sequence[str | tuple[int, ...]]:
    if workload.prompts is Prompts.TALES:
        texts = tales(workload.requests, seed, start)
        if workload.prompt_tokens is None:
            return texts
        return cut(await _tokenised(texts, subjects), _prompt_lengths(workload, seed, start))
    vocab = least_vocab(subjects)
    if not vocab:
        raise WorkloadError(
            f"no endpoint says how large its vocabulary is, so {workload.prompts} prompts cannot be drawn: send those "
            "of a trace (`dyno trace make --vocab`)"
        )
    return drawn_ids(workload, vocab, seed, start)


def drawn_ids(workload: Workload, vocab: int, seed: int, start: int = 0) -> tuple[tuple[int, ...], ...]:
    """Random or shared prompts as token ids below `vocab`."""
    lengths = _prompt_lengths(workload, seed, start)
    longest = most(workload.drawn_tokens)
    if workload.prompts is Prompts.RANDOM:
        whole = random_ids(workload.requests, longest, vocab, (seed, start))
    else:
        share, families = workload.share, workload.families
        whole = shared_prefix(workload.requests, longest, vocab, seed, start, share=share, families=families)
    return tuple(ids[:length] for ids, length in zip(whole, lengths, strict=True))


def _prompt_lengths(workload: Workload, seed: int, start: int) -> tuple[int, ...]:
    return draw_lengths(workload.drawn_tokens, workload.requests, (seed, start, 4))


async def _tokenised(texts: Sequence[str], subjects: Sequence[Subject]) -> list[tuple[int, ...]]:
    """The texts as the subjects' common tokenizer has them."""
    probes = {await subject.client.tokenize(texts[0], subject.card.id) for subject in subjects}
    if len(probes) > 1:
        raise WorkloadError(
            "the models have different tokenizers: leave prompt_tokens out to send text, or use random prompts"
        )
    first = subjects[0]
    return [await first.client.tokenize(text, first.card.id) for text in texts]


def find(cards: Sequence[ModelCard], model: str) -> ModelCard:
    """The card of a model by name; with no name, the only one there is. Raises WorkloadError."""
    names = ", ".join(card.id for card in cards)
    if not model:
        if len(cards) != 1:
            raise WorkloadError(f"the server has several models ({names}): say which with --model")
        return cards[0]
    for card in cards:
        if card.id == model:
            return card
    raise WorkloadError(f"the server has no model {model!r}; it has {names}")

"""From a call to the engine's requests: validated, tokenised, seeded, with their stop conditions."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from server.call import Conversation, GenerateCall, Prompt, Reading
from server.engine.constraint import AllowedIds, Constraint
from server.engine.request import Request
from server.errors import InvalidValue, field_of
from server.guidance.guides import Guides
from server.limits import Limits
from server.models import ServedModel
from server.text import StopString, VisibleText
from server.textwork import TextWork
from server.validation import ROLES, SEED_BITS, check_call, check_source, choice_seed, fitting_sampling


@dataclass(frozen=True, slots=True)
class Preparation:
    limits: Limits
    texts: TextWork
    guides: Guides

    async def requests(self, id: str, call: GenerateCall, model: ServedModel, arrived: float) -> list[Request]:
        """One request a choice, by index. Raises InvalidRequest."""
        check_call(call, model, self.limits)
        requests: list[Request] = []
        for index, prompt in enumerate(call.prompts):
            which = "prompt" if len(call.prompts) == 1 else f"prompt[{index}]"
            ids = await self._token_ids(model, prompt, call.reading, which)
            requests += self._continuations(id, call, model, ids, arrived, first=len(requests))
        for request, constraint in zip(requests, await self._constraints(call, model, len(requests)), strict=True):
            request.constraint = constraint
        return requests

    async def _constraints(self, call: GenerateCall, model: ServedModel, count: int) -> Sequence[Constraint | None]:
        """What bounds the outputs of each of the call's requests."""
        wishes = call.sampling
        if call.guidance is not None:
            return await self.guides.constraints(call.guidance, model, count, endless=wishes.ignore_eos)
        allowed = wishes.allowed_token_ids
        return [None if allowed is None else AllowedIds(allowed)] * count

    def _continuations(
        self, id: str, call: GenerateCall, model: ServedModel, ids: tuple[int, ...], arrived: float, first: int
    ) -> list[Request]:
        """The n requests of one prompt."""
        source, prompt = model.placed(ids)
        check_source(model, source)
        sampling = fitting_sampling(call, model, len(prompt), lambda: secrets.randbits(SEED_BITS))
        longest = self.limits.request_seconds
        deadline = arrived + (longest if call.seconds is None else min(call.seconds, longest))
        return [
            Request(
                id=f"{id}-{first + choice}",
                prompt=prompt,
                source=source,
                sampling=dataclasses.replace(sampling, seed=choice_seed(sampling.seed, choice)),
                arrived=arrived,
                deadline=deadline,
                stop=stop_condition(call, model, prompt, sampling.min_tokens),
                cache_salt=call.tenant.name.encode(),
                priority=call.priority or 0,
                trace=call.trace,
                given_id=call.given_id,
                user=call.user,
                tenant=call.tenant.name,
            )
            for choice in range(call.n or 1)
        ]

    async def _token_ids(self, model: ServedModel, prompt: Prompt, reading: Reading, which: str) -> tuple[int, ...]:
        if isinstance(prompt, tuple):
            return prompt
        if isinstance(prompt, str):
            ids = await self.texts.run(len(prompt), lambda: read(model, prompt, reading))
        else:
            ids = await self._render(model, prompt)
        if not ids:
            which = "messages" if isinstance(prompt, Conversation) else which
            message = f"{which} must come to at least one token for this model, got none"
            raise InvalidValue(message, param=field_of(which))
        if max(ids) >= model.vocab:  # a special token beyond the embedding, in a text or from a template
            text = f"the prompt has the token id {max(ids)}; token ids of this model run from 0 to {model.vocab - 1}"
            raise InvalidValue(text, param="prompt" if isinstance(prompt, str) else "messages")
        return tuple(ids)

    async def _render(self, model: ServedModel, conversation: Conversation) -> list[int]:
        messages = [{"role": ROLES[m.role], "content": m.content} for m in conversation.messages]
        size = sum(len(m.content) for m in conversation.messages)
        try:
            return await self.texts.run(size, lambda: model.tokenizer.render_chat(messages))
        except ValueError as error:
            raise InvalidValue(str(error), param="messages") from None


def read(model: ServedModel, text: str, reading: Reading) -> list[int]:
    """The ids of a text that is no conversation's."""
    return model.tokenizer.encode(text, framed=reading.framed, markup=reading.markup)


def stop_condition(call: GenerateCall, model: ServedModel, prompt: tuple[int, ...], least: int) -> StopString | None:
    """What the engine asks after each token of an answer of `least` tokens or more; reads the tokens as `visible_text`
    does."""
    stops = call.sampling.stop
    return StopString(model.tokenizer.stream(prompt), stops, least - 1) if stops else None


def visible_text(call: GenerateCall, model: ServedModel, prompt: tuple[int, ...], least: int) -> VisibleText:
    wishes = call.sampling
    return VisibleText(model.tokenizer.stream(prompt), wishes.stop, least - 1, wishes.include_stop)

"""From a call to the engine's requests: validated, tokenised, seeded, with their stop conditions."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass

from server.call import Conversation, GenerateCall, Prompt
from server.engine.request import Request
from server.errors import InvalidValue
from server.limits import Limits
from server.models import ServedModel
from server.text import StopString, VisibleText
from server.textwork import TextWork
from server.validation import SEED_BITS, check_call, check_source, choice_seed, fitting_sampling


@dataclass(frozen=True, slots=True)
class Preparation:
    limits: Limits
    texts: TextWork

    async def requests(self, id: str, call: GenerateCall, model: ServedModel, arrived: float) -> list[Request]:
        """One request a choice, by index. Raises InvalidRequest."""
        check_call(call, model, self.limits)
        requests: list[Request] = []
        for prompt in call.prompts:
            ids = await self._token_ids(model, prompt)
            requests += self._continuations(id, call, model, ids, arrived, first=len(requests))
        return requests

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
                stop=stop_condition(call, model, sampling.min_tokens),
                cache_salt=call.tenant.name.encode(),
            )
            for choice in range(call.n or 1)
        ]

    async def _token_ids(self, model: ServedModel, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, tuple):
            return prompt
        if isinstance(prompt, str):
            ids = await self.texts.run(len(prompt), lambda: model.tokenizer.encode(prompt))
        else:
            ids = await self._render(model, prompt)
        if not ids:
            raise InvalidValue("prompt has no tokens for this model", param="prompt")
        return tuple(ids)

    async def _render(self, model: ServedModel, conversation: Conversation) -> list[int]:
        messages = [{"role": m.role, "content": m.content} for m in conversation.messages]
        size = sum(len(m.content) for m in conversation.messages)
        try:
            return await self.texts.run(size, lambda: model.tokenizer.render_chat(messages))
        except ValueError as error:
            raise InvalidValue(str(error), param="messages") from None


def stop_condition(call: GenerateCall, model: ServedModel, min_tokens: int) -> StopString | None:
    """What the engine asks after each token; reads the tokens as `visible_text` does."""
    stops = call.sampling.stop
    return StopString(model.tokenizer.stream(), stops, min_tokens - 1) if stops else None


def visible_text(call: GenerateCall, model: ServedModel, min_tokens: int) -> VisibleText:
    return VisibleText(model.tokenizer.stream(), call.sampling.stop, min_tokens - 1)

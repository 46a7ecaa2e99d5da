"""Answers as bytes: a whole JSON object, or server-sent events of which the constant part is made once a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import orjson

from server.call import Finished, Piece, PromptTokens, WholeChoice
from server.errors import ServiceError
from server.generation import Generation
from server.transport.rest import sse
from server.transport.rest.calls import AnswerWishes
from server.transport.rest.errors import error_body
from server.transport.rest.facts import facts, usage
from server.transport.rest.logprobs import TextPlaces, chat_logprobs, completion_logprobs, prompt_logprobs


class Writer(ABC):
    """One call's answer. For a stream: `event` for each piece, then `end`, or `error` instead."""

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, generation: Generation, wishes: AnswerWishes) -> None:
        self._generation = generation
        self._wishes = wishes
        self._tokens = 0
        self._cached: dict[int, int] = {}  # by choice, once it has ended
        self._places: dict[int, TextPlaces] = {}  # by choice, where its next token begins
        self._begun: set[int] = set()
        self._head = sse.BEFORE + orjson.dumps(self._envelope(self.chunk_object))[:-1] + b',"choices":['

    def event(self, piece: Piece) -> bytes:
        """The event of one piece."""
        self._tokens += len(piece.tokens)
        tail = b"]"
        if self._wishes.usage_always:
            tail += b',"usage":' + orjson.dumps(usage(self._generation.prompt_tokens, self._tokens, None))
        elif self._wishes.usage:
            tail += b',"usage":null'
        if piece.finished is not None:
            self._note(piece.index, piece.finished)
            if self._wishes.facts is not None:
                tail += b',"dyno":' + orjson.dumps(facts(piece.index, piece.finished, self._wishes.facts))
        return b"".join((self._head, orjson.dumps(self._choice_chunk(piece)), tail, b"}", sse.BEHIND))

    def end(self) -> bytes:
        """The usage, when asked for, and the mark of a complete stream."""
        if not self._wishes.usage:
            return sse.DONE
        return self._head + b'],"usage":' + orjson.dumps(self._usage()) + b"}" + sse.BEHIND + sse.DONE

    @staticmethod
    def error(error: ServiceError) -> bytes:
        """The last event of a stream that fails; no mark of completeness follows."""
        return sse.event(error_body(error))

    def whole(self, choices: Sequence[WholeChoice]) -> bytes:
        """The whole answer."""
        for choice in choices:
            self._tokens += len(choice.tokens)
            self._note(choice.index, choice.finished)
        data = self._envelope(self.whole_object)
        data["choices"] = [self._whole_choice(choice) for choice in choices]
        data["usage"] = self._usage()
        detail = self._wishes.facts
        if detail is not None:
            told = [facts(choice.index, choice.finished, detail) for choice in choices]
            data["dyno"] = {"id": self._generation.id, "choices": told}
        return orjson.dumps(data)

    @abstractmethod
    def _chunk(self, piece: Piece, first: bool) -> dict[str, Any]:
        """What a choice of a chunk has beside index and finish_reason."""

    @abstractmethod
    def _whole(self, choice: WholeChoice) -> dict[str, Any]:
        """What a choice of a whole answer has beside index and finish_reason."""

    def _envelope(self, kind: str) -> dict[str, Any]:
        generation = self._generation
        return {
            "id": f"{self.prefix}-{generation.id}",
            "object": kind,
            "created": generation.created,
            "model": generation.model.name,
        }

    def _choice_chunk(self, piece: Piece) -> dict[str, Any]:
        first = piece.index not in self._begun
        self._begun.add(piece.index)
        reason = None if piece.finished is None else piece.finished.outcome
        choice = {"index": piece.index, **self._chunk(piece, first), "finish_reason": reason}
        if self._wishes.facts is not None:
            choice["token_ids"] = piece.tokens
        if piece.prompt is not None:
            choice |= self._scores(piece.prompt)
        return choice

    def _scores(self, prompt: PromptTokens) -> dict[str, Any]:
        """What is told of a prompt beside its echo, when it was asked for by that name."""
        if not self._wishes.scores:
            return {}
        return {"prompt_logprobs": prompt_logprobs(self._generation.model.tokenizer, prompt)}

    def _whole_choice(self, choice: WholeChoice) -> dict[str, Any]:
        data = {"index": choice.index, **self._whole(choice), "finish_reason": choice.finished.outcome}
        if self._wishes.facts is not None:
            data["token_ids"] = choice.tokens
        if choice.prompt is not None:
            data |= self._scores(choice.prompt)
        return data

    def _note(self, index: int, finished: Finished) -> None:
        self._cached[index] = finished.stats.cached_tokens

    def _usage(self) -> dict[str, Any]:
        """The token counts of the request. Of a prompt that is continued several times, cached is what no continuation
        had to compute."""
        n = self._generation.call.n or 1
        counts = [self._cached[index] for index in sorted(self._cached)]
        cached = sum(min(counts[first : first + n]) for first in range(0, len(counts), n))
        return usage(self._generation.prompt_tokens, self._tokens, cached)


class CompletionWriter(Writer):
    """/v1/completions"""

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def _chunk(self, piece: Piece, first: bool) -> dict[str, Any]:
        return {"text": self._text(piece), "logprobs": self._logprobs(piece)}

    def _whole(self, choice: WholeChoice) -> dict[str, Any]:
        return {"text": self._text(choice), "logprobs": self._logprobs(choice)}

    def _text(self, part: Piece | WholeChoice) -> str:
        """The text of a part, after the prompt when that is to be echoed."""
        return self._echo(part) + part.text

    def _echo(self, part: Piece | WholeChoice) -> str:
        if part.prompt is None or not self._generation.call.echo:
            return ""
        return self._generation.model.tokenizer.text_before(part.prompt.tokens)

    def _logprobs(self, part: Piece | WholeChoice) -> dict[str, Any] | None:
        if self._generation.call.logprobs is None:
            return None
        tokenizer, prompt = self._generation.model.tokenizer, part.prompt
        if part.index not in self._places:
            before = self._generation.choices[part.index].request.prompt
            self._places[part.index] = TextPlaces(tokenizer, len(self._echo(part)), before)
        tokens, logprobs, places = part.tokens, part.logprobs, self._places[part.index].of(part.tokens)
        if prompt is not None and self._generation.call.echo:
            tokens, logprobs = prompt.tokens + tokens, (prompt.logprobs or ()) + logprobs
            places = TextPlaces(tokenizer).of(prompt.tokens) + places
        return completion_logprobs(tokenizer, tokens, logprobs, places)


class ChatWriter(Writer):
    """/v1/chat/completions"""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _chunk(self, piece: Piece, first: bool) -> dict[str, Any]:
        delta = {"role": "assistant", "content": piece.text} if first else {"content": piece.text}
        return {"delta": delta, "logprobs": self._logprobs(piece)}

    def _whole(self, choice: WholeChoice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(choice)}

    def _logprobs(self, part: Piece | WholeChoice) -> dict[str, Any] | None:
        if self._generation.call.logprobs is None:
            return None
        return chat_logprobs(self._generation.model.tokenizer, part.tokens, part.logprobs)
